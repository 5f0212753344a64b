"""K, N and step sizes for a wanted accuracy, and the error measured with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypergrad import CG, Bilevel, GradientDescent, hypergradient
from hypergrad.checks.answer import flat
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.theory import Constants, Estimated, Plan, plan
from verification.check.estimates import Estimate
from verification.check.trajectory import Trajectory

# More lower or adjoint steps than this in all are not taken in order to measure their error.
MOST_STEPS = 200_000


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Measured:
    """What came of a choice.

    Attributes:
        choice: the steps.
        error: ``|h - reference|`` at the worst upper iterate, as a share of the largest
            hypergradient on the trajectory; infinite if it diverged, NaN if it was not tried.
        note: why there is no number; else empty.
    """

    choice: Choice
    error: float
    note: str = ""


@dataclass(frozen=True)
class Advice:
    """The recommendation.

    Attributes:
        plan: K, N and the lower step size; its bound is one on each task's error.
        upper_step_size: ``1/L_F`` with the largest L_F met between upper iterates.
        constants: what the plan was made of: the worst of the trajectory.
    """

    plan: Plan
    upper_step_size: float
    constants: dict[str, float]


def worst(estimates: Sequence[Estimate]) -> dict[str, float]:
    """The least mu and the largest of everything else, under the names of `Constants`."""

    def largest(name: str) -> float:
        return max(float(getattr(found, name)) for found in estimates)

    return {
        "strong_convexity": min(found.mu for found in estimates),
        **{
            name: largest(name)
            for name in (
                "smoothness",
                "coupling",
                "upper_coupling",
                "upper_smoothness",
                "hessian_lipschitz",
                "coupling_lipschitz",
                "adjoint_norm",
                "upper_gradient",
            )
        },
    }


def recommend(trajectory: Trajectory, estimates: Sequence[Estimate], accuracy: float) -> Advice:
    """K and N by theory.md, Theorem A, with the worst constants met.

    Args:
        trajectory: the visits.
        estimates: one for each.
        accuracy: on the hypergradient, as a share of the largest one on the trajectory.

    Raises:
        InputError: g is not strongly convex there.
    """
    constants = worst(estimates)
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


def measure(problem: Bilevel[Any, Any], trajectory: Trajectory, choice: Choice) -> Measured:
    """The error with these steps, from phi0 and v0 = 0, at every upper iterate."""
    cost = (choice.steps + choice.max_steps) * len(trajectory.visits)
    if cost > MOST_STEPS:
        return Measured(choice, math.nan, f"not tried: {cost} steps in all")
    errors = [0.0]
    for visit in trajectory.visits:
        descent = GradientDescent(max_steps=choice.steps, step_size=choice.step_size)
        try:
            phi = descent.minimise(problem.lower, visit.theta, visit.start).phi
            solver = CG(rtol=0.0, max_steps=choice.max_steps)
            grad = hypergradient(problem, visit.theta, phi, solver=solver).grad
        except NotFiniteError:
            return Measured(choice, math.inf, "diverged: the step size is above 2/L")
        errors.append(float((flat(grad) - visit.grad).norm()))
    return Measured(choice, max(errors) / trajectory.scale)


def choices(
    advice: Advice | None, steps: int | None, max_steps: int | None, step_size: float | None
) -> list[Choice]:
    """What is measured: the recommendation, fractions of it, and the user's own.

    Raises:
        InputError: K or N of the user's is given without the other, or there is no step size.
    """
    found: list[Choice] = []
    if advice is not None:
        K, N, alpha = advice.plan.steps, advice.plan.max_steps, advice.plan.step_size
        found = [
            Choice("recommended", K, N, alpha),
            Choice("a quarter of it", math.ceil(K / 4), math.ceil(N / 4), alpha),
        ]
    if steps is None and max_steps is None:
        return found
    alpha_or_none = step_size or (advice.plan.step_size if advice is not None else None)
    if steps is None or max_steps is None or alpha_or_none is None:
        raise InputError(
            f"got steps={steps}, max_steps={max_steps}, step_size={step_size}; to measure your own "
            "choice give K and N, and the step size where none can be recommended."
        )
    return [*found, Choice("yours", steps, max_steps, alpha_or_none)]
