"""What one hypergradient costs here and in torchopt, higher and betty-ml, at what error.

    python -m benchmarks.peers --out benchmarks/results/peers.json

All methods get the same objectives and the same minimiser, found once beforehand, in float64 on one
thread. Each is first checked against an oracle of dense linear algebra (peer_cases.py); then they
take turns, A B C ... B C A ..., in one process. The machine's speed changes during a run, so what
counts is the median over rounds of each method's ratio to this library within the same round; the
milliseconds are there for scale. A ratio says something only beside its error.

Peers never enter the project's environment. Give them one of their own:

    python3 -m venv PEERS
    PEERS/bin/pip install -r benchmarks/peers-requirements.txt
    PEERS/bin/pip install --no-deps --ignore-requires-python betty-ml==0.2.1
    PEERS/bin/pip install --no-deps --editable .
    OMP_NUM_THREADS=1 PEERS/bin/python -m benchmarks.peers --out benchmarks/results/peers.json

A peer that is not installed is reported as absent. How each is run:

- torchopt: ``custom_root`` with ``solve_cg``, which stops by the same tolerance as CG here (its
  default, ``solve_normal_cg``, takes twice the products and squares the condition number), and
  with ``solve_inv``, which builds the Hessian as ``Cholesky`` here does.
- betty-ml: an Engine of two problems; what ``one_step_descent`` does up to the optimiser's step.
  ``cg`` with as many steps as CG here takes: its update of the direction uses the old residual, so
  that it does not converge. ``neumann`` is right, and gets the best step size, 2/(mu + L), and as
  many terms as reach our error.
- higher: differentiates K unrolled steps, begun at the minimiser, with the best step size (and
  momentum) for the exact extreme eigenvalues; K is the least with which it reaches our error.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peer_cases import CONDITION, Case, logistic, quadratic
from benchmarks.peer_methods import PACKAGES, RTOL, methods, version
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, ratios, seconds

CASES: dict[str, Callable[[], Case]] = {
    "quadratic-10": lambda: quadratic(10),
    "quadratic-100": lambda: quadratic(100),
    "quadratic-1000": lambda: quadratic(1000),
    "logistic-small": lambda: logistic(300, 60, 10),
    "logistic": lambda: logistic(2000, 784, 10),
}
DEFAULT = ["quadratic-100", "quadratic-1000", "logistic"]
EQUAL = 2.0  # errors within this factor of ours, or below it, are called equal
TURN = 0.05  # seconds that a method's turn takes at least, unless one call takes longer

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=DEFAULT)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)  # torchopt's use of functorch

    results: Row = {"provenance": _provenance(asked.rounds), "cases": []}
    for name in asked.cases:
        case = CASES[name]()
        rows = measure(case, asked.rounds)
        results["cases"] = [*_list(results["cases"]), _record(case, rows)]
        print(table(case, rows), flush=True)
    absent = [label for module, label in PACKAGES.items() if version(module) is None]
    for label in absent:
        print(f"absent: {label}")
    if asked.out is not None:
        write(asked.out, results)


def measure(case: Case, rounds: int) -> list[Row]:
    """Errors first, then times in turns; the first method of each group is its reference."""
    entries = list(methods(case))
    errors = [case.error(entry.run()) for entry in entries]
    calls = [max(1, int(TURN / seconds(entry.run))) for entry in entries]
    times = interleaved([entry.run for entry in entries], rounds=rounds, calls=calls)
    references = {entry.given: index for index, entry in reversed(list(enumerate(entries)))}
    against = {index: ratios(times, index) for index in references.values()}
    rows: list[Row] = []
    for index, (entry, error) in enumerate(zip(entries, errors, strict=True)):
        reference = references[entry.given]
        ratio = against[reference][index]
        rows.append(
            {
                "package": entry.package,
                "how": entry.how,
                "given": entry.given,
                "steps": entry.steps,
                "error": error,
                "equal_error": error <= EQUAL * errors[reference],
                "ratio": ratio.median,
                "ratio_quartiles": [ratio.low, ratio.high],
                "milliseconds": ratio.seconds * 1e3,
            }
        )
    return rows


def table(case: Case, rows: list[Row]) -> str:
    """For a terminal; in each group by time, ours first."""
    lines = [
        "",
        f"{case.name}: kappa = {case.largest / case.smallest:.0f}, "
        f"|d g/d phi| / |d f/d phi| = {case.stationarity:.0e}",
    ]
    for given in dict.fromkeys(row["given"] for row in rows):
        group = [row for row in rows if row["given"] == given]
        wide = max(len(_label(row)) for row in group)
        told = "values only" if given == "values" else "derivatives in closed form as well"
        lines += [
            f"  the lower level gave {told}",
            f"    {'':{wide}}  steps    error  times ours (quartiles)        ms",
        ]
        for row in sorted(group, key=lambda row: float(str(row["ratio"]))):
            low, high = (float(str(end)) for end in _list(row["ratio_quartiles"]))
            spread = f"({low:.2f} to {high:.2f})"
            lines.append(
                f"    {_label(row):{wide}}  {row['steps']!s:>5}  {row['error']:.1e}  "
                f"{row['ratio']:10.2f} {spread:>16}  {row['milliseconds']:9.2f}"
                f"{'' if row['equal_error'] else '  NOT at equal error'}"
            )
    return "\n".join(lines)


def _label(row: Row) -> str:
    return f"{row['package']}: {row['how']}"


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _record(case: Case, rows: list[Row]) -> Row:
    return {
        "case": case.name,
        "dtype": str(case.phi.dtype),
        "condition": case.largest / case.smallest,
        "stationarity": case.stationarity,
        "rows": rows,
    }


def _provenance(rounds: int) -> Row:
    return provenance() | {
        "peers": {label: version(module) or "absent" for module, label in PACKAGES.items()},
        "rounds": rounds,
        "rtol": RTOL,
        "quadratic_condition": CONDITION,
    }


if __name__ == "__main__":
    main()
