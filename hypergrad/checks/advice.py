"""K, N and step sizes for a wanted accuracy, and the error measured with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypergrad.checks.estimates import Estimate
from hypergrad.checks.problem import flat
from hypergrad.checks.trajectory import Trajectory
from hypergrad.constants import Constants, Estimated
from hypergrad.errors import NotFiniteError
from hypergrad.implicit.pullback import hypergradient
from hypergrad.linear.cg import CG
from hypergrad.lower.gradient_descent import GradientDescent
from hypergrad.objective import Bilevel
from hypergrad.theory.planning import Plan, plan

# More lower or adjoint steps than this in all are not taken in order to measure their error.
MOST_STEPS = 200_000

RECOMMENDED = "recommended"


@dataclass(frozen=True, slots=True)
class Choice:
    """Steps of both levels.

    Attributes:
        name: whose choice it is.
        steps: K, of gradient descent on the lower level.
        max_steps: N, of conjugate gradients on the adjoint system.
        step_size: alpha, of gradient descent.
    """

    name: str
    steps: int
    max_steps: int
    step_size: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured error of a choice.

    Attributes:
        choice: the steps.
        error: ``|h - reference|`` at the worst upper iterate, as a share of the largest
            hypergradient on the trajectory; infinite if it diverged, NaN if it was not tried.
        note: reason if there is no number; else empty.
    """

    choice: Choice
    error: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Advice:
    """The recommendation.

    Attributes:
        plan: K, N and the lower step size; its bound is one on each task's error.
        upper_step_size: ``1/L_F`` with the largest L_F met between upper iterates.
        constants: worst constants of the trajectory, which the plan was made from.
    """

    plan: Plan
    upper_step_size: float
    constants: dict[str, float]


_LARGEST = (
    "smoothness",
    "coupling",
    "upper_coupling",
    "upper_smoothness",
    "hessian_lipschitz",
    "coupling_lipschitz",
    "adjoint_norm",
    "upper_gradient",
)


def recommend(trajectory: Trajectory, estimates: Sequence[Estimate], accuracy: float) -> Advice:
    """K and N by theory.md, Theorem A, with the worst constants met.

    Args:
        trajectory: the visits.
        estimates: constants at each upper iterate.
        accuracy: on the hypergradient, as a share of the largest one on the trajectory.

    Raises:
        InputError: g is not strongly convex there.
    """
    constants = {name: max(float(getattr(e, name)) for e in estimates) for name in _LARGEST}
    # where all eigenvalues are the same, rounding may order them wrongly
    least = min(found.mu for found in estimates)
    constants["strong_convexity"] = min(least, constants["smoothness"])
    known = Constants(**{name: Estimated(value) for name, value in constants.items()})
    distance = Estimated(max(found.distance for found in estimates))
    found = plan(known, accuracy * trajectory.scale, distance=distance)
    return Advice(found, upper_step_size(trajectory), constants)


def upper_step_size(trajectory: Trajectory) -> float:
    """``min |theta - theta'| / |grad F - grad F'|`` over successive upper iterates."""
    quotients = [math.inf]
    for before, after in zip(trajectory.visits, trajectory.visits[1:], strict=False):
        change = float((after.grad - before.grad).norm())
        moved = float((flat(after.theta) - flat(before.theta)).norm())
        if change > 0:
            quotients.append(moved / change)
    return min(quotients)


def measure(bilevel: Bilevel[Any, Any], trajectory: Trajectory, choice: Choice) -> Measured:
    """The error with these steps, from phi0 and v0 = 0, at every upper iterate."""
    cost = (choice.steps + choice.max_steps) * len(trajectory.visits)
    if math.isnan(choice.step_size):
        return Measured(choice, math.nan, "not tried: give step_size, none can be recommended")
    if cost > MOST_STEPS:
        return Measured(choice, math.nan, f"not tried: {cost} steps in all")
    errors = [0.0]
    for visit in trajectory.visits:
        descent = GradientDescent(max_steps=choice.steps, step_size=choice.step_size)
        try:
            phi = descent.minimise(bilevel.lower, visit.theta, visit.start).phi
            solver = CG(rtol=0.0, max_steps=choice.max_steps)
            grad = hypergradient(bilevel, visit.theta, phi, solver=solver).grad
        except NotFiniteError:
            return Measured(choice, math.inf, "diverged: the step size is above 2/L")
        errors.append(float((flat(grad) - visit.grad).norm()))
    return Measured(choice, max(errors) / trajectory.scale)


def choices(
    advice: Advice | None, steps: int | None, max_steps: int | None, step_size: float | None
) -> list[Choice]:
    """Choices to be measured: the recommendation, a quarter of it, and the user's own."""
    found: list[Choice] = []
    if advice is not None:
        K, N, alpha = advice.plan.steps, advice.plan.max_steps, advice.plan.step_size
        found = [
            Choice(RECOMMENDED, K, N, alpha),
            Choice("a quarter of it", math.ceil(K / 4), math.ceil(N / 4), alpha),
        ]
        step_size = step_size or alpha
    if steps is not None and max_steps is not None:
        found.append(Choice("yours", steps, max_steps, step_size or math.nan))
    return found
