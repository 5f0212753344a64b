"""Result files of the repository and their age: commits since, to the code that each measures.

    python -m benchmarks.ages --out docs/ages.md

A result file tells of the code at its own commit. What was changed afterwards may have moved its
numbers, or not: the count says where to look. Merges aren't counted, since what they join is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
_FEW_SHOT: Final = ("hypergrad", "metalearn")
_STEP: Final = (*_FEW_SHOT, "benchmarks/fewshot.py", "benchmarks/costs.py", "benchmarks/timing.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Result files that one command writes.

    Attributes:
        files: pattern of their paths, from the repository's root.
        command: writes them.
        code: files and folders whose change may change the numbers.
    """

    files: str
    command: str
    code: tuple[str, ...]


def _bench(name: str, *options: str, code: tuple[str, ...] = _STEP, module: str = "") -> Recorded:
    """A benchmark, whose result has its name."""
    module = module or name
    own = f"benchmarks/{module.replace('.', '/')}"
    if not (ROOT / own).is_dir():
        own += ".py"
    file = f"benchmarks/results/{name}.json"
    command = " ".join(("python -m", f"benchmarks.{module}", *options, "--out", file))
    return Recorded(files=file, command=command, code=(*code, own))


_PEERS: Final = tuple(
    f"benchmarks/peer_{part}.py" for part in ("cases", "entries", "jax", "methods", "rows")
)

RECORDED: Final = (
    Recorded(
        files="results/omniglot-20way-1shot/*.json",
        command="make experiments-omniglot",
        code=(*_FEW_SHOT, "experiments/omniglot-20way-1shot.yaml"),
    ),
    Recorded(
        files="results/cifar-fs-5way-5shot/**/*.json",
        command="python -m experiments cifar-fs --methods memory-reduced memory-reduced-exact "
        "itd-bio anil maml-learn2learn r2d2 protonet",
        code=(*_FEW_SHOT, "experiments/cifar-fs-5way-5shot.yaml"),
    ),
    Recorded(
        files="results/cifar-fs-5way-1shot-200steps/**/*.json",
        command="python -m experiments cifar-fs --shot 1 --steps 200 --seeds 0 --methods "
        "memory-reduced memory-reduced-exact itd-bio anil protonet r2d2 maml-learn2learn maml "
        "imaml",
        code=(*_FEW_SHOT, "experiments/cifar-fs-5way-5shot.yaml"),
    ),
    Recorded(
        files="results/fc100-5way-5shot-100steps/**/*.json",
        command="python -m experiments fc100 --steps 100 --seeds 0 1 2 --methods memory-reduced "
        "memory-reduced-exact itd-bio anil protonet r2d2",
        code=(*_FEW_SHOT, "experiments/cifar-fs-5way-5shot.yaml"),
    ),
    Recorded(
        files="results/tieredimagenet-5way-5shot-200steps/**/*.json",
        command="python -m experiments tieredimagenet --steps 200 --seeds 0 --methods "
        "memory-reduced memory-reduced-exact itd-bio anil protonet r2d2",
        code=(*_FEW_SHOT, "experiments/cifar-fs-5way-5shot.yaml"),
    ),
    Recorded(
        files="results/residual/study.json",
        command="python -m experiments residual",
        code=(*_FEW_SHOT, "experiments/residual.py", "experiments/residual.yaml"),
    ),
    Recorded(
        files="results/residual-cifar-fs/study.json",
        command="python -m experiments residual-cifar-fs",
        code=(*_FEW_SHOT, "experiments/residual.py", "experiments/residual-cifar-fs.yaml"),
    ),
    Recorded(
        files="results/plan/plan.json",
        command="python -m experiments plan",
        code=(*_FEW_SHOT, "experiments/planned.py"),
    ),
    Recorded(
        files="results/batches/study.json",
        command="python -m experiments batches",
        code=(*_FEW_SHOT, "experiments/batches.py", "experiments/residual.yaml"),
    ),
    Recorded(
        files="results/normalisation/study.json",
        command="python -m experiments normalisation",
        code=(*_FEW_SHOT, "experiments/normalisation.py"),
    ),
    Recorded(
        files="results/cross-domain/study.json",
        command="python -m experiments cross-domain",
        code=(*_FEW_SHOT, "experiments/normalisation.py", "experiments/cross_domain.py"),
    ),
    Recorded(files="results/glyphs-5way-1shot/*.json", command="make train", code=_FEW_SHOT),
    Recorded(
        files="results/verification/full/report.json",
        command="make verify",
        code=("hypergrad", "verification"),
    ),
    Recorded(
        files="results/verification/mutation.json",
        command="python -m tests.mutation --sample 300 --seed 5",
        code=("hypergrad", "tests/hypergrad", "tests/mutation"),
    ),
    Recorded(
        files="results/reliability/kills.json",
        command="python -m tests.metalearn.distributed.kills --times 50",
        code=(*_FEW_SHOT, "tests/metalearn/distributed/kills.py"),
    ),
    Recorded(
        files="results/reliability/resumes.json",
        command="python -m tests.metalearn.kills --times 20",
        code=(*_FEW_SHOT, "tests/metalearn/kills.py"),
    ),
    Recorded(
        files="results/reliability/soak.json",
        command="python -m tests.metalearn.soak --minutes 60",
        code=(*_FEW_SHOT, "tests/metalearn/soak.py"),
    ),
    Recorded(
        files="results/mutated-files.json",
        command="python -m tests.metalearn.fuzz --files 2000",
        code=("metalearn/data", "tests/metalearn/fuzz.py"),
    ),
    _bench("allreduce", code=("metalearn/distributed", "metalearn/training")),
    _bench("backbone_profile", code=("metalearn/backbones",)),
    _bench("behaviour", code=("hypergrad",)),
    _bench("beside", code=("hypergrad",), module="behaviour.beside"),
    _bench("beyond_memory", "--gib 32", code=("metalearn",)),
    _bench("bilevel", code=("hypergrad",)),
    _bench(
        "bilevel_longer",
        "--times 4 --problems 'regularisation selection'",
        code=("hypergrad",),
        module="bilevel",
    ),
    _bench("certified", code=("hypergrad",)),
    _bench("conditions", code=("hypergrad",)),
    _bench("coordinates", code=("hypergrad",), module="conditions.coordinates"),
    _bench("crossover", code=("hypergrad",)),
    _bench("curvatures", "--rounds 5", code=("hypergrad",)),
    _bench("digits", code=("hypergrad",)),
    _bench("double_backward", code=("hypergrad",)),
    _bench("eager_profile", code=("hypergrad", "benchmarks/peer_cases.py")),
    _bench("first_use", code=(*_FEW_SHOT, "README.md")),
    _bench("gate_repeated", "--repeat 20", module="gate"),
    _bench("large_networks", "--networks 'ResNet, 10M' 'transformer, 10M'", code=("hypergrad",)),
    _bench(
        "larger_networks",
        "--networks 'transformer, 100M'",
        code=("hypergrad",),
        module="large_networks",
    ),
    _bench("imports", "--rounds 7", code=("hypergrad", "metalearn/__init__.py")),
    _bench("kronecker", "--seeds 2", code=("hypergrad",)),
    _bench("limit"),
    _bench("network_peers", "--seeds 10", code=("hypergrad",)),
    _bench("numerics", code=("hypergrad",)),
    _bench("peers", "--rounds 9", code=("hypergrad", *_PEERS)),
    _bench("profile", module="step_profile"),
    _bench("published", "--tasks 2", code=(*_STEP, "benchmarks/published_methods.py")),
    _bench("scaling", code=("metalearn/backbones",)),
    _bench("second_derivatives", "--problems 10000", code=("hypergrad", "verification/problems")),
    _bench("soba_jax", code=("hypergrad",)),
    _bench("stationarity", "--problems 10000", code=("hypergrad", "verification/problems")),
    _bench("steps", "--settings cifar-conv4-64 mini-conv4-32 --tasks 1 --rounds 3"),
    _bench("torch_compile", code=("hypergrad",)),
    _bench("two_ranks", code=_FEW_SHOT),
    _bench("vectors", code=("hypergrad",)),
    _bench("whole_network"),
)
"""Result files by the command that writes them."""


def unlisted(root: Path = ROOT) -> list[str]:
    """Result files that no command of `RECORDED` writes."""
    listed = {path for each in RECORDED for path in root.glob(each.files)}
    found = (*root.glob("results/**/*.json"), *root.glob("benchmarks/results/*.json"))
    return sorted(str(path.relative_to(root)) for path in found if path not in listed)


def commits(recorded: Recorded, root: Path = ROOT) -> list[str]:
    """The commits that the files name, in order; files that name none (settings) don't count."""
    found: dict[str, None] = {}
    for path in sorted(root.glob(recorded.files)):
        record = json.loads(path.read_text(encoding="utf-8"))
        named = _commit(record)
        if named is not None:
            found[named] = None
    return list(found)


def _commit(record: Any) -> str | None:
    own = record.get("provenance", record)
    name = own.get("commit")
    return None if name is None else str(name)


def since(commit: str, code: Iterable[str], root: Path = ROOT) -> int | None:
    """Commits after this one, up to the present, that touch the code; None if git can't say.

    It can't outside a checkout, in a shallow one, or where the commit is not of this history.
    """
    if _git(root, "merge-base", "--is-ancestor", commit, "HEAD") is None:
        return None
    said = _git(root, "rev-list", "--count", "--no-merges", f"{commit}..HEAD", "--", *code)
    return None if said is None else int(said)


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def row(recorded: Recorded, root: Path = ROOT) -> list[str]:
    """Cells of the table: files, command, commits, and commits since that touch the code."""
    named = commits(recorded, root)
    ages = [since(commit, recorded.code, root) for commit in named]
    ages_shown = ["unknown" if age is None else str(age) for age in ages]
    short = [f"`{commit[:7]}`" for commit in named]
    return [f"`{recorded.files}`", f"`{recorded.command}`", ", ".join(short), ", ".join(ages_shown)]


def page(root: Path = ROOT) -> str:
    """The page of the documentation."""
    head = _git(root, "rev-parse", "--short=7", "HEAD") or "unknown"
    rows = [row(each, root) for each in RECORDED]
    fresh = sum(cells[-1] == "0" for cells in rows)
    titles = ["result files", "written by", "at commit", "commits since to the code it measures"]
    lines = [titles, ["---", "---", "---", "---:"], *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return (
        "# Result files and their age\n\n"
        "The numbers of a result file are those of the commit that it names. The last column "
        "counts the later commits, without merges,\nthat touch the code which the file measures. "
        "Such a commit may have changed the numbers or not: run the command to know. The\npage was "
        f"written by `python -m benchmarks.ages --out docs/ages.md` at `{head}`, when {fresh} of "
        f"{len(rows)} rows had a 0 there.\n\n{table}\n"
    )


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="page to write; without it, print")
    asked = parser.parse_args()
    if asked.out is None:
        print(page())
    else:
        asked.out.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
