"""Reads many mutated data files: each must be read or end in a typed error, nothing else.

`python -m tests.metalearn.fuzz --files 2000` prints what came of them and fails if any raised
another exception, took long or ran code; `--out FILE` writes it down. Many files are read in one
child process, whose limits are those of the product; where one ends the child, the next goes on.
"""

import argparse
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalearn.config.commands import PrepareConfig
from metalearn.data.prepare import prepare
from metalearn.data.published import SPLITS, DatasetName
from metalearn.data.reading import ARCHIVES, find_source, join
from metalearn.data.untrusted.child import Limits, call
from metalearn.data.untrusted.pickles import unpickle
from metalearn.errors import DataError, MetalearnError
from metalearn.files import write_json
from metalearn.runs import provenance
from tests.metalearn import legacy
from tests.metalearn.own import LAYOUTS

LIMITS = Limits(memory=2**30, processor_seconds=120, wall_seconds=600.0, written=2**28)
PATIENCE = 30.0  # CPU seconds for one file of some kB
BATCH = 250  # files of one child
READ, REFUSED, ENDED = "read", "refused", "ended its process, typed"
FORBIDDEN = {"os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn"}
FORBIDDEN |= {"pickle.find_class", "exec", "socket.connect", "ctypes.dlopen"}
STORE = "store"

_heard: list[str] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _heard is not None and event in FORBIDDEN:
        _heard.append(f"{event} {arguments}")


sys.addaudithook(_listen)


@contextmanager
def listening() -> Iterator[list[str]]:
    """The forbidden events met meanwhile: code run, or a global found by Python's unpickler."""
    global _heard
    heard = _heard = []
    try:
        yield heard
    finally:
        _heard = None


def judge(read: Callable[[], object]) -> str:
    """`READ`, `REFUSED`, or what went wrong."""
    with listening() as heard:
        try:
            read()
            result = READ
        except (MetalearnError, MemoryError):  # the child's caller makes the latter the former
            result = REFUSED
        except Exception as error:  # what has no type of ours is what is looked for
            result = f"{type(error).__name__}: {error}"
    return f"ran code: {heard}" if heard else result


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to eight flips, overwrites, deletions, repetitions or truncations."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        # Half of the time near an end, where the headers are.
        span = len(data) if draw.random() < 0.5 else min(300, len(data))
        at = draw.randrange(span) if draw.random() < 0.5 else len(data) - 1 - draw.randrange(span)
        match draw.randrange(6):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at] = draw.randrange(256)
            case 2:
                data[at : at + 4] = draw.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(4)))
            case 3:
                del data[at : at + draw.randrange(1, 50)]
            case 4:
                data[at:at] = data[at : at + draw.randrange(1, 50)]
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


def entries(path: Path, *prefixes: str, count: int) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/")]
        chosen = [n for p in prefixes for n in [f for f in files if f.startswith(p)][:count]]
        return {name: archive.read(name) for name in chosen}


def real_files() -> dict[str, tuple[DatasetName, dict[str, bytes]]]:
    """Small pieces of the real data sets, in their own forms; none when they are not there."""
    data = legacy.DATA
    if not data.is_dir():
        return {}
    folder = data / "cifar100" / "cifar-100-python"
    batch = unpickle(io.BytesIO((folder / "test").read_bytes()), "test")
    piece = {key.decode(): value[:200] for key, value in batch.items() if len(value) == 10_000}
    halves = {
        f"{half}.zip": legacy.zipped(entries(data / "omniglot" / f"{half}.zip", half, count=30))
        for half in ("images_background", "images_evaluation")
    }
    images = entries(
        data / "cifar100" / "cifar-fs-train150.zip",
        *("cifar100/data/apple/", "cifar100/data/baby/", "cifar100/splits/"),
        count=3,
    )
    photos = entries(
        data / "tiny_imagenet" / "tiny-imagenet-subset60.zip", "tiny-imagenet-200/train/", count=9
    )
    pickles = {"test": legacy.python2(piece), "meta": (folder / "meta").read_bytes()}
    return {
        "real omniglot": ("omniglot", halves),
        "real cifar-100": ("cifar-fs", {f"cifar-100-python/{k}": v for k, v in pickles.items()}),
        "real omniglot, torchmeta": ("omniglot", legacy.torchmeta_omniglot(halves)),
        "real cifar-fs": ("cifar-fs", {"cifar100.zip": legacy.zipped(images)}),
        "real photographs": ("tieredimagenet", {"tiny.zip": legacy.zipped(photos)}),
        "real photographs, folder": ("tieredimagenet", photos),
    }


def _forms() -> dict[str, tuple[DatasetName, dict[str, bytes]]]:
    forms = {form: (name, files()) for form, (name, files, _, _) in legacy.FORMS.items()}
    folder = legacy.official_folder()
    forms["official tar.gz"] = ("cifar-fs", {"c.tar.gz": legacy.tarred(folder)})
    forms["official tar"] = ("cifar-fs", {"c.tar": legacy.tarred(folder, "w")})
    own: dict[str, tuple[DatasetName, dict[str, bytes]]] = {
        f"own, {layout}": ("folders", files()) for layout, (files, _, _) in LAYOUTS.items()
    }
    return forms | own | real_files()


def _read_source(path: Path, name: DatasetName) -> None:
    shares = (1 / 3, 1 / 3, 1 / 3) if name == "folders" else None
    for parts in join([find_source(path, name)], shares).values():
        for part in parts:
            part.load()


def _read_store(path: Path) -> None:
    from metalearn.data.store import open_store  # not in the child, which needs no torch

    for split in SPLITS:
        open_store(path).split(split).pool()


def _read(path: Path, name: DatasetName | None) -> None:
    files = [file for file in path.rglob("*") if file.is_file()]
    if name is None:
        _read_store(path)
    else:
        archive = len(files) == 1 and files[0].name.endswith(ARCHIVES)
        _read_source(files[0] if archive else path, name)


def _mutated(whole: Path, name: DatasetName | None, seed: int, number: int) -> tuple[str, float]:
    """What came of one mutated file of a form, and the CPU seconds that it took."""
    draw = random.Random(f"{seed} {number}")
    copy = Path(tempfile.mkdtemp()) / "copy"
    shutil.copytree(whole, copy)
    path = draw.choice(sorted(path for path in copy.rglob("*") if path.is_file()))
    path.write_bytes(mutate(path.read_bytes(), draw))
    began = time.process_time()
    result = judge(lambda: _read(copy, name))
    seconds = time.process_time() - began
    shutil.rmtree(copy.parent)
    return result, seconds


def batch(
    folder: str, forms: dict[str, DatasetName], seed: int, numbers: list[tuple[int, str]], done: str
) -> None:
    """The call in a child: judge the unmutated forms, then mutated files, a line of `done` each."""
    with Path(done).open("a", encoding="utf-8") as lines:
        for form, name in forms.items():  # also imports all that reading imports
            _read(Path(folder, form), name)
        lines.write("[]\n")
        for number, form in numbers:
            result, seconds = _mutated(Path(folder, form), forms[form], seed, number)
            lines.write(json.dumps([number, form, result, seconds]) + "\n")
            lines.flush()


@dataclass(slots=True)
class Outcome:
    """What came of the mutated files.

    Attributes:
        found: how many, by form and result.
        slowest: the form and number of the file that took longest, and the CPU seconds it took.
    """

    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: tuple[str, int, float] = ("none", 0, 0.0)

    def add(self, number: int, form: str, result: str, seconds: float) -> None:
        """Count one file."""
        if seconds > PATIENCE:
            result = f"more than {PATIENCE} s of CPU"
        if result not in (READ, REFUSED, ENDED):
            say(f"{form}, file {number}: {result}")
        self.found[form, result] += 1
        if seconds > self.slowest[2]:
            self.slowest = form, number, seconds

    def count(self, *results: str) -> int:
        """How many files ended in one of these results."""
        return sum(n for (_, result), n in self.found.items() if result in results)


def fuzz(count: int, *, seed: int, folder: Path) -> Outcome:
    """Mutate and read `count` files, each form in turn."""
    forms = _forms()
    for form, (_, files) in forms.items():
        legacy.put(folder / form, files)
    names = {form: name for form, (name, _) in forms.items()}
    config = PrepareConfig(
        dataset="cifar-fs",
        source=(folder / "learn2learn cifarfs",),
        root=folder / STORE,
        allow_partial=True,
    )
    store = prepare(config).path
    every = [*forms, STORE]
    numbers = [(number, every[number % len(every)]) for number in range(count)]
    outcome = Outcome()
    for number, form in numbers:
        if form == STORE:
            outcome.add(number, form, *_mutated(store, None, seed, number))
    pending = [(number, form) for number, form in numbers if form != STORE]
    while pending:
        done = folder / "done"
        done.write_bytes(b"")
        ended = None
        with tempfile.TemporaryDirectory() as own:
            try:
                call(
                    *(batch, str(folder), names, seed, pending[:BATCH], str(done)),
                    folder=Path(own),
                    limits=LIMITS,
                    source="mutated files",
                )
            except DataError as error:
                ended = error
        whole, *lines = map(json.loads, done.read_text(encoding="utf-8").splitlines() or ["0"])
        if ended is not None and whole != []:
            raise ended  # a file that is not mutated
        for line in lines:
            outcome.add(*line)
        pending = pending[len(lines) :]
        if ended is not None:
            number, form = pending.pop(0)
            say(f"{form}, file {number}: {ended}")
            outcome.add(number, form, ENDED, 0.0)
    return outcome


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    origin = provenance.commit()
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(arguments.files, seed=arguments.seed, folder=Path(folder))
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    forms: dict[str, dict[str, int]] = {}
    for (form, result), count in sorted(outcome.found.items()):
        forms.setdefault(form, {})[result] = count
    for form, results in forms.items():
        say(f"{form:<26} {', '.join(f'{count} {result}' for result, count in results.items())}")
    read, refused, ended = (outcome.count(result) for result in (READ, REFUSED, ENDED))
    wrong = outcome.found.total() - read - refused - ended
    slow_form, slow_number, seconds = outcome.slowest
    say(
        f"{arguments.files} mutated files: {read} read, {refused} refused, {ended} ended their "
        f"process and were refused, {wrong} otherwise; a child took up to {peak / 2**20:.0f} MiB; "
        f"slowest: {slow_form}, file {slow_number}, {1000 * seconds:.0f} ms of CPU (allowed "
        f"{PATIENCE:.0f} s)"
    )
    if arguments.out is not None:
        record = {
            "files": arguments.files,
            "seed": arguments.seed,
            "read": read,
            "refused": refused,
            "ended": ended,
            "otherwise": wrong,
            "forms": forms,
            "real_data": bool(real_files()),
            "peak_bytes": peak,
            "slowest": {"form": slow_form, "file": slow_number, "cpu_seconds": seconds},
            **origin,
            "versions": provenance.versions(),
        }
        write_json(arguments.out, record)
    return int(wrong > 0 or refused * 4 < arguments.files)


if __name__ == "__main__":
    from tests.metalearn.fuzz import main as named  # the child looks `batch` up by its module

    sys.exit(named())
