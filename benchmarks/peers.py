"""Times and errors of hypergradients, in this library and in others.

    python -m benchmarks.peers --out benchmarks/results/peers.json

Rows: one hypergradient at a given minimiser (quadratics, logistic regression), of many tasks at
once, at a fixed point; a lower solve alone; a loop of upper steps. All methods of a row get the
same problem, in float64 on one thread, with the same tolerance. The process is pinned to one core,
since jax uses more threads than its flags say. Each method's error is found first, against dense
linear algebra (peer_cases.py, peer_rows.py); then they take turns, A B C ... B C A ..., in one
process. The machine's speed changes during a run, so what counts is the median over rounds of each
method's ratio to this library within the same round; the milliseconds are there for scale. A ratio
says something only beside its error.

Each row is written when it is done, and one that the file has is not measured again: a run that was
stopped goes on. A file of other code or another machine is refused.

Peers never enter the project's environment. Give them one of their own:

    python3 -m venv PEERS
    PEERS/bin/pip install -r benchmarks/peers-requirements.txt
    PEERS/bin/pip install --no-deps --ignore-requires-python betty-ml==0.2.1
    PEERS/bin/pip install --no-deps --editable .
    OMP_NUM_THREADS=1 PEERS/bin/python -m benchmarks.peers --out benchmarks/results/peers.json

A peer that is not installed is reported as absent. How each is run:

- jaxopt, optimistix: under ``jax.jit``, compiled before; vmapped over tasks. ``root_vjp`` and
  ``ImplicitAdjoint`` at the given minimiser, with no step of a solver, and with a linear solver at
  our tolerance. A fit of optimistix stops by changes, not by the gradient's norm.
- torchopt: ``custom_root`` with ``solve_cg``, which stops by the same tolerance as CG here (its
  default, ``solve_normal_cg``, takes twice the products and squares the condition number), and
  with ``solve_inv``, which builds the Hessian as ``Cholesky`` here does. Many tasks are one system
  to it.
- betty-ml: an Engine of two problems; what ``one_step_descent`` does up to the optimiser's step.
  ``cg`` with as many steps as CG here takes: its update of the direction uses the old residual, so
  that it does not converge. ``neumann`` is right, and gets the best step size, 2/(mu + L), and as
  many terms as reach our error.
- higher: differentiates K unrolled steps, begun at the minimiser, with the best step size and
  momentum for the exact extreme eigenvalues; K is the least with which it reaches our error.
- SciPy, scikit-learn: the lower solve alone, SciPy with a written gradient; and SciPy's minimiser
  in this library's loop.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer_cases import CONDITION
from benchmarks.peer_entries import PACKAGES, RTOL, Row, version
from benchmarks.peer_rows import ROWS
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, ratios, seconds

EQUAL = 2.0  # errors within this factor of ours, or below it, are called equal,
ROUNDING = 1e-12  # and so are errors below this
TURN = 0.05  # seconds that a method's turn takes at least, unless one call takes longer

Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes, or lies")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--core", type=int, help="which core to use; the last one if left out")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # torchopt's use of functorch
    origin = _provenance(asked.rounds, pin(asked.core))

    results = begun(asked.out, origin)
    for name in asked.rows:
        if name not in results["rows"]:
            row = ROWS[name]()
            results["rows"][name] = {"name": row.name} | row.about | measure(row, asked.rounds)
            if asked.out is not None:
                write(asked.out, results)
        print(table(results["rows"][name]), flush=True)
    for label, found in origin["peers"].items():
        if found == "absent":
            print(f"absent: {label}")


def pin(core: int | None) -> int | None:
    """Keep the process and all its threads on one core; None where the system can't."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    core = max(allowed) if core is None else core
    if core not in allowed:
        sys.exit(f"--core {core} was given; this process may use {sorted(allowed)}.")
    os.sched_setaffinity(0, {core})
    return core


def begun(path: Path | None, origin: Record) -> Record:
    """The result file if there is one of the same code, machine and settings, else an empty one."""
    if path is None or not path.exists():
        return {"provenance": origin, "rows": {}}
    found: Record = json.loads(path.read_text(encoding="utf-8"))
    if found.get("provenance") != origin:
        sys.exit(
            f"{path} is of other code, another machine or other settings, so that its rows can't "
            "stand beside new ones: remove it to measure anew."
        )
    return found


def measure(row: Row, rounds: int) -> Record:
    """Errors first, then times in turns.

    The first method of each group is its reference, and jaxopt's first is one for all of them.
    """
    entries = list(row.methods())
    errors = [row.error(entry.read(entry.run())) for entry in entries]
    calls = [max(1, int(TURN / seconds(entry.run))) for entry in entries]
    times = interleaved([entry.run for entry in entries], rounds=rounds, calls=calls)
    references = {entry.given: index for index, entry in reversed(list(enumerate(entries)))}
    against = {index: ratios(times, index) for index in references.values()}
    jaxopts = [index for index, entry in enumerate(entries) if entry.package == "jaxopt"]
    over = ratios(times, jaxopts[0]) if jaxopts else None
    found: list[Record] = []
    for index, (entry, error) in enumerate(zip(entries, errors, strict=True)):
        reference = references[entry.given]
        ratio = against[reference][index]
        found.append(
            {
                "package": entry.package,
                "how": entry.how,
                "given": entry.given,
                "steps": entry.steps,
                "error": error,
                "equal_error": error <= max(EQUAL * errors[reference], ROUNDING),
                "ratio": ratio.median,
                "ratio_quartiles": [ratio.low, ratio.high],
                "milliseconds": ratio.seconds * 1e3,
            }
        )
        if over is not None:
            compiled = over[index]
            found[-1] |= {
                "over_jaxopt": compiled.median,
                "over_jaxopt_quartiles": [compiled.low, compiled.high],
            }
    return {"methods": found}


def table(row: Record) -> str:
    """For a terminal; in each group by time."""
    about = [f"{name} = {value:.2g}" for name, value in row.items() if isinstance(value, float)]
    lines = ["", f"{row['name']}: {', '.join(about)}"]
    methods: list[Record] = row["methods"]
    for given in dict.fromkeys(method["given"] for method in methods):
        group = [method for method in methods if method["given"] == given]
        wide = max(len(_label(method)) for method in group)
        derivatives = "values only" if given == "values" else "derivatives in closed form as well"
        lines += [
            f"  the lower level gave {derivatives}",
            f"    {'':{wide}}  steps    error  times ours (quartiles)             ms"
            "  times jaxopt's first",
        ]
        for method in sorted(group, key=lambda method: float(method["ratio"])):
            low, high = method["ratio_quartiles"]
            spread = f"({low:.3f} to {high:.3f})"
            unequal = "" if method["equal_error"] else "  NOT at equal error"
            lines.append(
                f"    {_label(method):{wide}}  {method['steps']!s:>5}  {method['error']:.1e}  "
                f"{method['ratio']:10.3f} {spread:>18}  {method['milliseconds']:9.3f}  "
                f"{_over_jaxopt(method):>24}{unequal}"
            )
    return "\n".join(lines)


def _over_jaxopt(method: Record) -> str:
    if "over_jaxopt" not in method:
        return ""
    low, high = method["over_jaxopt_quartiles"]
    return f"{method['over_jaxopt']:.2f} ({low:.2f} to {high:.2f})"


def _label(method: Record) -> str:
    return f"{method['package']}: {method['how']}"


def _provenance(rounds: int, core: int | None) -> Record:
    versions = {label: version(module) or "absent" for module, label in PACKAGES.items()}
    versions |= {name: version(name) or "absent" for name in ("jax", "lineax")}
    return provenance() | {
        "peers": versions,
        "pinned_to_core": core,
        "rounds": rounds,
        "rtol": RTOL,
        "quadratic_condition": CONDITION,
    }


if __name__ == "__main__":
    main()
