"""``python -m tests.mutation``: the share of small changes that the tests notice.

python -m tests.mutation --out FILE
python -m tests.mutation --out FILE --only hypergrad.linear.cg --reuse

Exit status: 0 if at least 90 % are noticed, 1 if fewer, 2 if a test fails without any change.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from tests.mutation.generate import Mutant, mutants
from tests.mutation.plugin import ALIVE, Fate, Hunt, Measure

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / ".mutants" / "tests.json"
WANTED = 0.9
_PACKAGES = ("mutmut", "libcst", "coverage", "pytest")

# Tests of other modules than these, or in processes that the record of lines doesn't see.
_OTHERS = (
    "adaptive",
    "check",
    "check_alarms",
    "check_conditions",
    "check_minimiser",
    "check_theorems",
    "compiling",
    "penalty",
    "planning",
    "sharded",
    "spectrum",
    "warm",
)
_FOLDERS = ("conditions", "implicit", "linear", "lower", "objectives", "stochastic")


def modules() -> list[str]:
    """The modules to mutate: hypergrad's own, and those of its folders but three.

    `checks` and `theory` are tools beside the hypergradient; `distributed` is tested in two
    processes, where no line is recorded.
    """
    own = ROOT / "hypergrad"
    paths = [*own.glob("*.py"), *(path for name in _FOLDERS for path in (own / name).glob("*.py"))]
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in sorted(paths)]
    return [".".join(part) for part in parts if part[-1] not in ("__init__", "__main__")]


def files() -> list[Path]:
    """The files of tests that the mutants are put to."""
    paths = sorted((ROOT / "tests" / "hypergrad").rglob("test_*.py"))
    return [path for path in paths if path.stem.removeprefix("test_") not in _OTHERS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the result, a JSON file")
    parser.add_argument("--only", nargs="+", choices=modules(), help="these modules alone")
    parser.add_argument("--sample", type=int, help="as many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of tests for a mutant")
    parser.add_argument(
        "--reuse", action="store_true", help="the last run's record of which test runs what"
    )
    parser.add_argument("--again", type=Path, help="only what survived in this result file")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    if not (options.reuse and MEASURED.exists()) and _measure() != 0:
        sys.stderr.write("a test fails without any mutant: see above\n")
        return 2
    chosen = options.only or modules()
    hunt = _Chosen(chosen, options)
    if pytest.main(_arguments("-q"), plugins=[hunt]) != 0:
        return 2
    result = _result(hunt, options, time.perf_counter() - began)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _tell(result)
    return 0 if result["score"] >= WANTED else 1


class _Chosen(Hunt):
    """The hunt of a run; mutants are made when the tests have been collected.

    Only then is the library imported as tests import it, with its runtime type checks.
    """

    def __init__(self, chosen: Sequence[str], options: argparse.Namespace) -> None:
        super().__init__((), MEASURED, options.budget)
        self.chosen, self.options, self.population = chosen, options, 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """See pytest."""
        found = [mutant for name in self.chosen for mutant in mutants(name)]
        self.population = len(found)
        if self.options.again is not None:
            old = json.loads(self.options.again.read_text(encoding="utf-8"))["survivors"]
            known = [tuple(entry[key] for key in _WHAT) for entry in old]
            found = [mutant for mutant in found if tuple(_entry(mutant).values()) in known]
        if self.options.sample is not None:
            found = random.Random(self.options.seed).sample(found, self.options.sample)
        self.mutants = found


def _arguments(*more: str) -> list[str]:
    return [*map(str, files()), "-p", "no:cacheprovider", "--rootdir", str(ROOT), *more]


def _measure() -> int:
    """Run the tests unchanged, in a process of their own; pytest's exit status."""
    child = os.fork()
    if child == 0:
        sources = {name: str(ROOT / f"{name.replace('.', '/')}.py") for name in modules()}
        os._exit(pytest.main(_arguments("-q"), plugins=[Measure(sources, MEASURED)]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_WHAT = ("module", "function", "before", "after")


def _entry(mutant: Mutant) -> dict[str, str]:
    """What identifies a mutant as long as its function is not changed."""
    values = (mutant.module, ".".join(mutant.path), mutant.before, mutant.after)
    return dict(zip(_WHAT, values, strict=True))


def _result(hunt: _Chosen, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    from verification.report.record import provenance  # imports the library: not before pytest does

    counts: dict[str, dict[str, int]] = {}
    survivors: list[dict[str, str | int]] = []
    for mutant in hunt.mutants:
        fate = hunt.fates[mutant.name]
        row = counts.setdefault(mutant.module, dict.fromkeys(get_args(Fate), 0))
        row[fate] += 1
        if fate in ALIVE:
            survivors.append({**_entry(mutant), "line": mutant.line, "fate": fate})
    tried = len(hunt.mutants)
    dead = tried - len(survivors)
    interval = None
    if options.sample is not None:
        found = binomtest(dead, tried).proportion_ci(0.95, method="exact")
        interval = [found.low, found.high]
    where = provenance()
    where["versions"] |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "score": dead / tried,
        "tried": tried,
        "mutants": hunt.population,
        "sample_seed": None if options.sample is None else options.seed,
        "interval_95": interval,
        "budget_seconds": options.budget,
        "seconds": seconds,
        "provenance": where,
        "modules": counts,
        "survivors": survivors,
    }


def _tell(result: dict[str, Any]) -> None:
    table = Table(title="small changes of the shipped code, and whether tests notice them")
    table.add_column("module")
    for name in (*get_args(Fate), "noticed"):
        table.add_column(name, justify="right")
    for module, row in result["modules"].items():
        dead = 1 - sum(row[fate] for fate in ALIVE) / sum(row.values())
        table.add_row(module, *map(str, row.values()), f"{dead:.1%}")
    console = Console()
    console.print(table)
    total = f"{result['score']:.1%} of {result['tried']} noticed"
    if result["interval_95"] is not None:
        low, high = result["interval_95"]
        total += f", drawn from {result['mutants']}: 95 % interval {low:.1%} to {high:.1%}"
    console.print(f"{total}, in {result['seconds']:.0f} s", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
