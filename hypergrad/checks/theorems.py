"""Do the theorems apply here: assumptions, constants and advice along a trajectory of theta."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hypergrad.checks.advice import RECOMMENDED, Advice, Measured, choices, measure, recommend
from hypergrad.checks.assumptions import CONVEX, judge
from hypergrad.checks.estimates import Estimate, estimate
from hypergrad.checks.findings import WIDTH, Finding, Verdict, state
from hypergrad.checks.problem import Problem
from hypergrad.checks.trajectory import Trajectory, travel
from hypergrad.errors import NotFiniteError

ACCURACY = "accuracy with recommended K, N"

_MISSED = (
    "take more steps than recommended, or float64: a constant is larger than the trajectory shows, "
    "or the precision does not reach that far"
)


@dataclass(frozen=True, slots=True)
class Survey:
    """Observations along a trajectory of theta.

    Attributes:
        findings: one row for each assumption, and one for the recommended steps.
        accuracy: error of the hypergradient asked for, relative to the largest on the trajectory.
        trajectory: the upper iterates.
        estimates: the constants at each of them.
        advice: K, N and step sizes; None where none can be recommended.
        measured: errors against the reference solves.
    """

    findings: Sequence[Finding]
    accuracy: float
    trajectory: Trajectory
    estimates: Sequence[Estimate]
    advice: Advice | None
    measured: Sequence[Measured]

    def lines(self) -> Iterator[str]:
        """The measured errors and the recommendation, as printed below the findings."""
        if self.measured:
            yield f"  {'steps':<17}{'K':>8}{'N':>8}{'step size':>11}{'error':>10}"
        for m in self.measured:
            c, error = m.choice, m.note or f"{m.error:.1e}"
            yield f"  {c.name:<17}{c.steps:>8}{c.max_steps:>8}{c.step_size:>11.3g}{error:>10}"
        yield from textwrap.wrap(
            self._recommendation(), WIDTH, initial_indent="  ", subsequent_indent="  "
        )

    def _recommendation(self) -> str:
        if self.advice is None:
            return (
                "No K and N can be recommended: the bounds need a mu that is above 0 by more than "
                "rounding beside L, on all of the trajectory."
            )
        plan, eta = self.advice.plan, self.advice.upper_step_size
        upper = f"; upper steps of at most {eta:.3g} (1/L_F)" if eta < math.inf else ""
        return (
            f"Recommended: GradientDescent(max_steps={plan.steps}, "
            f"step_size={plan.step_size:.3g}) and CG(rtol=0, max_steps={plan.max_steps}){upper}. "
            "These follow from a bound, so fewer steps may do, and from constants met on the "
            "trajectory, so they are no guarantee: a supremum over a region may be larger."
        )

    def plain(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        advice = None
        if self.advice is not None:
            plan = self.advice.plan
            advice = {
                "steps": plan.steps,
                "max_steps": plan.max_steps,
                "step_size": plan.step_size,
                "bound": float(torch.as_tensor(plan.bound.value).max()),
                "upper_step_size": self.advice.upper_step_size,
                "constants": self.advice.constants,
            }
        return {
            "accuracy": self.accuracy,
            "scale": self.trajectory.scale,
            "upper_step_size": self.trajectory.step_size,
            "broken": self.trajectory.broken,
            "trajectory": [
                {
                    "value": visit.value,
                    "gradient_norm": float(visit.grad.norm()),
                    "stationarity": visit.stationarity,
                }
                for visit in self.trajectory.visits
            ],
            "estimates": [asdict(found) for found in self.estimates],
            "advice": advice,
            "measured": [
                {**asdict(m.choice), "error": m.error, "note": m.note} for m in self.measured
            ],
        }


def survey(
    problem: Problem,
    *,
    upper_steps: int,
    upper_step_size: float | None,
    steps: int | None,
    max_steps: int | None,
    step_size: float | None,
    seed: int,
) -> Survey:
    """Travel, estimate, judge, recommend and measure.

    Args:
        problem: g without its closed form if that is wrong; the start of every lower solve.
        upper_steps: length of the trajectory.
        upper_step_size: eta; None moves theta by a tenth of its size in the first step.
        steps: the user's K.
        max_steps: the user's N.
        step_size: the user's lower step size; None for the recommended one.
        seed: seed of the random probes.

    Raises:
        InputError: the objectives can't be used.
    """
    bilevel, accuracy = problem.trusted, problem.accuracy
    trajectory = travel(
        bilevel,
        problem.theta,
        problem.start,
        steps=upper_steps,
        step_size=upper_step_size,
        size_limit=problem.size_limit,
    )
    estimates: list[Estimate] = []
    for visit in trajectory.visits:
        try:
            estimates.append(estimate(bilevel, visit, seed=seed))
        except NotFiniteError:  # derivatives overflow before values do; the visits tell of it
            break
    findings = judge(trajectory, estimates)
    convex = any(f.name == CONVEX and f.verdict is Verdict.OK for f in findings)
    # where curvature varies by more than the precision from iterate to iterate, no K serves all
    usable = convex and min(e.mu for e in estimates) > max(e.rounding for e in estimates)
    advice = recommend(trajectory, estimates, accuracy) if usable else None
    tried = choices(advice, steps, max_steps, step_size)
    measured = [measure(bilevel, trajectory, choice) for choice in tried]
    for m in measured:
        if m.choice.name == RECOMMENDED and not math.isnan(m.error):
            words = f"error {m.error:.1e} of the largest hypergradient; asked for: {accuracy:g}"
            findings.append(state(ACCURACY, m.error <= accuracy, words, _MISSED))
    return Survey(findings, accuracy, trajectory, estimates, advice, measured)
