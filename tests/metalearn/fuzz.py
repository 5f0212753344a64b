"""Reads many mutated data files: each must be read or be refused, and nothing else may happen.

`python -m tests.metalearn.fuzz --files 2000` prints what came of them and fails if any raised
another exception, took long, ran code, or took more than 1 GiB; `--out FILE` writes it down.
"""

import argparse
import os
import random
import resource
import signal
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
from metalearn.data.prepare import ARCHIVES, find_source, join, prepare
from metalearn.data.published import SPLITS, DatasetName
from metalearn.data.store import open_store
from metalearn.data.untrusted.unpickle import unpickle
from metalearn.errors import MetalearnError
from metalearn.files import write_json
from metalearn.runs import provenance
from tests.metalearn import legacy

MEMORY = 2**30  # bytes that reading may take
PATIENCE = 30.0  # CPU seconds for one file of some kB
READ, REFUSED = "read", "refused"
FORBIDDEN = {"os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn"}
FORBIDDEN |= {"pickle.find_class", "exec", "socket.connect", "ctypes.dlopen"}

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


class Slow(BaseException):
    """Not an `Exception`, so that no reader mistakes it for damage."""


def _stop(number: int, frame: object) -> None:
    raise Slow


def judge(read: Callable[[], object], *, patience: float) -> str:
    """`READ`, `REFUSED`, or what went wrong."""
    before = signal.signal(signal.SIGPROF, _stop)
    signal.setitimer(signal.ITIMER_PROF, patience)
    try:
        with listening() as heard:
            try:
                read()
                result = READ
            except MetalearnError:
                result = REFUSED
            except Slow:
                result = f"more than {patience} s of CPU"
            except Exception as error:
                result = f"{type(error).__name__}: {error}"
        return f"ran code: {heard}" if heard else result
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


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
    batch = unpickle((folder / "test").read_bytes(), "test")
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
    return forms | real_files()


def _read_source(path: Path, name: DatasetName) -> None:
    for parts in join([find_source(path, name)]).values():
        for part in parts:
            part.load()


def _read_store(path: Path) -> None:
    for split in SPLITS:
        open_store(path).split(split).pool()


@dataclass(slots=True)
class Outcome:
    """What came of the mutated files.

    Attributes:
        found: how many, by form and result.
        slowest: the form and number of the file that took longest, and the CPU seconds it took.
    """

    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: tuple[str, int, float] = ("none", 0, 0.0)

    def count(self, *results: str) -> int:
        """How many files ended in one of these results."""
        return sum(n for (_, result), n in self.found.items() if result in results)


def fuzz(count: int, *, seed: int, folder: Path) -> Outcome:
    """Mutate and read `count` files, each form in turn."""
    forms = _forms()
    for form, (_, files) in forms.items():
        legacy.put(folder / form, files)
    store = folder / "store" / "cifar-fs"
    prepare(
        PrepareConfig(
            dataset="cifar-fs",
            source=(folder / "learn2learn cifarfs",),
            root=folder / "store",
            allow_partial=True,
        )
    )
    outcome = Outcome()
    names = [*forms, "store"]

    def read(form: str) -> None:
        files = [path for path in (folder / form).rglob("*") if path.is_file()]
        if form == "store":
            _read_store(store)
        else:
            archive = len(files) == 1 and files[0].name.endswith(ARCHIVES)
            _read_source(files[0] if archive else folder / form, forms[form][0])

    for form in names:  # what is refused before it is mutated would tell nothing
        result = judge(lambda form=form: read(form), patience=PATIENCE)  # type: ignore[misc]
        if result != READ:
            outcome.found[form, f"unmutated: {result}"] += 1
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        form = names[number % len(names)]
        there = sorted(path for path in (folder / form).rglob("*") if path.is_file())
        path = draw.choice(there)
        whole = path.read_bytes()
        path.write_bytes(mutate(whole, draw))
        began = time.process_time()
        result = judge(lambda form=form: read(form), patience=PATIENCE)  # type: ignore[misc]
        seconds = time.process_time() - began
        path.write_bytes(whole)
        if seconds > outcome.slowest[2]:
            outcome.slowest = form, number, seconds
        if result not in (READ, REFUSED):
            say(f"{form}, file {number}: {result}")
        outcome.found[form, result] += 1
    return outcome


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _in_use() -> int:
    """Bytes of private writable memory, which RLIMIT_DATA bounds (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    origin = provenance.commit()
    limit = _in_use() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(arguments.files, seed=arguments.seed, folder=Path(folder))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    forms: dict[str, dict[str, int]] = {}
    for (form, result), count in sorted(outcome.found.items()):
        forms.setdefault(form, {})[result] = count
    for form, results in forms.items():
        say(f"{form:<26} {', '.join(f'{count} {result}' for result, count in results.items())}")
    read, refused = outcome.count(READ), outcome.count(REFUSED)
    wrong = outcome.found.total() - read - refused
    slow_form, slow_number, seconds = outcome.slowest
    milliseconds = f"{1000 * seconds:.0f} ms"
    say(
        f"{arguments.files} mutated files: {read} read, {refused} refused, {wrong} otherwise; "
        f"resident memory grew by {grown / 2**20:.0f} MiB (allowed {MEMORY // 2**20}); slowest: "
        f"{slow_form}, file {slow_number}, {milliseconds} of CPU (allowed {PATIENCE:.0f} s)"
    )
    if arguments.out is not None:
        record = {
            "files": arguments.files,
            "seed": arguments.seed,
            "read": read,
            "refused": refused,
            "otherwise": wrong,
            "forms": forms,
            "real_data": bool(real_files()),
            "peak_growth_bytes": grown,
            "slowest": {"form": slow_form, "file": slow_number, "cpu_seconds": seconds},
            **origin,
            "versions": provenance.versions(),
        }
        write_json(arguments.out, record)
    return int(wrong > 0 or refused * 4 < arguments.files)


if __name__ == "__main__":
    sys.exit(main())
