"""Single-loop methods on the problems of the public bilevel benchmark: gap against computations.

    python -m benchmarks.bilevel --out benchmarks/results/bilevel.json

Quadratics whose value function is known, weights for digits with wrong labels, and one penalty for
each feature of drawn data of ijcnn1's size (problems.py). SABA, SOBA, AmIGO, stocBiO and F2SA with
the step sizes' powers and the inner steps of that benchmark, and gradient descent with implicit
hypergradients of all data (methods.py). The step sizes' factors are those of a small grid that end
lowest on a seed of their own, by the value function on the training problem and not on test data;
then ten other seeds draw the batches (study.py). Counted are gradients and products of examples.

    python -m benchmarks.bilevel --times 4 --problems 'regularisation selection'

gives each method four times the computations, its step sizes chosen anew.

A problem is written when it is done, and one that a file of the same code has is not run again.
``--draw`` prints the guide's table and draws its figure from the file, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.bilevel.page import FIGURE, figure, rows
from benchmarks.bilevel.problems import PROBLEMS
from benchmarks.bilevel.study import SCALES, study
from benchmarks.provenance import provenance, write

OUT: Final = Path(__file__).parents[1] / "results" / "bilevel.json"


def begun(path: Path, origin: dict[str, Any]) -> dict[str, Any]:
    """The file with the problems that are done, if it is of the same code and seeds."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if all(found.get(name) == value for name, value in origin.items()):
            return found
    return {**origin, "problems": {}}


def main() -> None:
    """Run every method on every problem and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="result file")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--times", type=int, default=1, help="computations, over the usual number")
    parser.add_argument("--draw", action="store_true", help="draw the file, and run nothing")
    options = parser.parse_args()
    if options.draw:
        record = json.loads(options.out.read_text(encoding="utf-8"))
        print(*rows(record), sep="\n")
        FIGURE.write_text(figure(record), encoding="utf-8")
        return
    torch.set_num_threads(1)
    origin = provenance() | {"seeds": options.seeds, "times": options.times}
    found = begun(options.out, origin)
    for name in options.problems:
        if name not in found["problems"]:
            scale = SCALES[name]
            longer = replace(scale, budget=options.times * scale.budget)
            found["problems"][name] = study(PROBLEMS[name](), longer, seeds=options.seeds)
            write(options.out, found)


if __name__ == "__main__":
    main()
