"""Runs in the environment of the peers, and prints the record as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import warnings
from collections.abc import Callable, Iterator

import torch

from benchmarks.conditions.degenerate import degenerate
from benchmarks.conditions.equilibria import equilibria
from benchmarks.conditions.programs import programs
from benchmarks.conditions.sparse import paths
from benchmarks.conditions.ways import Problem, error
from benchmarks.timing import interleaved, ratios

PACKAGES = (
    "torch",
    "numpy",
    "scikit-learn",
    "sparho",
    "cvxpylayers",
    "cvxpy",
    "diffcp",
    "qpth",
    "torchdeq",
    "torchopt",
    "jaxopt",
    "optimistix",
    "jax",
    "jaxlib",
)
GROUPS: dict[str, Callable[[], Iterator[Problem]]] = {
    "programs": programs,
    "paths": paths,
    "equilibria": equilibria,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "rounds": asked.rounds,
        "degenerate": degenerate(),
        "problems": [
            {"problem": problem.name, "rows": measure(problem, asked.rounds)}
            for group in asked.groups
            for problem in GROUPS[group]()
        ],
    }
    print(json.dumps(record))


def measure(problem: Problem, rounds: int) -> list[dict[str, object]]:
    """Errors first, then times in turns, relative to the first way's in the same round."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that will go, by the peers' own code
        found = [way.run() for way in problem.ways]
        times = interleaved([way.run for way in problem.ways], rounds=rounds)
    rows = []
    for way, (solution, derivative), ratio in zip(problem.ways, found, ratios(times), strict=True):
        wrong = None if derivative is None else error(derivative, problem.derivative)
        rows.append(
            {
                "package": way.package,
                "how": way.how,
                "solution_error": error(solution, problem.solution),
                "derivative_error": wrong,
                "ratio": ratio.median,
                "ratio_quartiles": [ratio.low, ratio.high],
                "milliseconds": ratio.seconds * 1e3,
            }
        )
    return rows


if __name__ == "__main__":
    main()
