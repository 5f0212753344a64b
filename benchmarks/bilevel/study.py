"""Value gap against computations: step sizes are chosen on one seed, then others are run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor

from benchmarks.bilevel.methods import METHODS, FullBatch, Stochastic
from benchmarks.bilevel.problems import Problem
from hypergrad.errors import NotFiniteError

POINTS: Final = 10  # where a run is looked at, evenly in the logarithm of its computations
CHOOSING: Final = 1000  # the seed that step sizes are chosen on
UPPER: Final = (1.0, 3.0, 10.0, 30.0)  # step sizes of theta to choose from, over the problem's


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Units of one problem's grids of step sizes.

    Attributes:
        step: step size of phi and v, about 1/L of a batch.
        upper: step size of theta.
        budget: computations, in steps of SOBA.
    """

    step: float
    upper: float
    budget: int


SCALES: Final = {
    "quadratics": Scale(step=0.4, upper=0.06, budget=400),
    "data cleaning": Scale(step=4.0, upper=300.0, budget=400),
    "regularisation selection": Scale(step=1.0, upper=1.0, budget=500),
}


def checkpoints(problem: Problem, budget: int) -> list[int]:
    """Computations at which gaps are taken: from twenty steps of SOBA to the whole budget."""
    unit = 4 * problem.size
    return [int(each) for each in np.geomspace(20 * unit, budget * unit, POINTS).round()]


@dataclass(frozen=True)
class Trace:
    """Gaps at the checkpoints, and theta at the last; none where the method diverged."""

    gaps: list[float | None]
    theta: Tensor | None


def trace(
    method: Stochastic | FullBatch,
    problem: Problem,
    marks: list[int],
    step: float,
    upper: float,
    seed: int,
) -> Trace:
    """The gap of the last theta whose computations are within each checkpoint."""
    gaps: list[float | None] = []
    last = problem.theta
    try:
        for count, theta in method.path(problem, step, upper, seed):
            while count > marks[len(gaps)]:
                gaps.append(problem.gap(last))
                if len(gaps) == len(marks):
                    return Trace(gaps, last)
            last = theta
    except NotFiniteError:
        return Trace([*gaps, *[None] * (len(marks) - len(gaps))], None)
    raise AssertionError("a path has no end")


def chosen(
    name: str, problem: Problem, scale: Scale, budget: int
) -> tuple[float, float, list[dict[str, Any]]]:
    """The step sizes with the least gap on one seed, and all that were tried."""
    method, marks = METHODS[name], [4 * problem.size * budget]
    tried: list[dict[str, Any]] = []
    for factor, multiple in itertools.product(method.steps, UPPER):
        step, upper = factor * scale.step, multiple * scale.upper
        gap = trace(method, problem, marks, step, upper, CHOOSING).gaps[-1]
        tried.append({"step_size": step, "upper_step_size": upper, "gap": gap})
    alive = [each for each in tried if each["gap"] is not None]
    if not alive:
        raise AssertionError(f"{name} diverged on {problem.name} with all of {tried}")
    best = min(alive, key=lambda each: float(each["gap"]))
    return best["step_size"], best["upper_step_size"], tried


def study(problem: Problem, scale: Scale, *, seeds: int) -> dict[str, Any]:
    """Run all methods on one problem."""
    marks = checkpoints(problem, scale.budget)
    found: dict[str, Any] = {}
    for name, method in METHODS.items():
        # full-batch steps are few and cost much: they get ten times the computations
        many = 10 if isinstance(method, FullBatch) else 1
        own = [many * mark for mark in marks]
        step, upper, tried = chosen(name, problem, scale, many * scale.budget // 4)
        runs = [
            trace(method, problem, own, step, upper, seed)
            for seed in range(1 if isinstance(method, FullBatch) else seeds)
        ]
        # a run that diverged is as bad as the start was
        start = problem.gap(problem.theta)
        gaps = np.array([[start if gap is None else gap for gap in run.gaps] for run in runs])
        ends = [run.theta for run in runs if run.theta is not None]
        found[name] = {
            "step_size": step,
            "upper_step_size": upper,
            "tried": tried,
            "computations": own,
            "quartiles": np.percentile(gaps, [25, 50, 75], axis=0).T.tolist(),
            "ends": gaps[:, -1].tolist(),
            "diverged": sum(run.theta is None for run in runs),
        }
        if problem.error is not None:
            found[name]["test_errors"] = [problem.error(theta) for theta in ends]
        print(f"{problem.name}, {name}: {found[name]['quartiles'][-1]}", flush=True)
    return {
        "about": problem.about,
        "start": problem.gap(problem.theta),
        "budget": marks[-1],
        "choosing": {"seed": CHOOSING, "budget": marks[-1] // 4},
        "methods": found,
    }
