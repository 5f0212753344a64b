"""Lower solvers' protocol and answer: a point with its stationarity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeAlias, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hypergrad.equation import Equation, Gradient, Saddle, is_equation, paired
from hypergrad.errors import InputError
from hypergrad.implicit.active import is_non_smooth
from hypergrad.objective import Objective, is_indefinite
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True, eq=False)
class Minimum(Generic[Phi]):
    """A point that should minimise the lower objective, with the evidence.

    Attributes:
        phi: the last iterate, cut off from any graph.
        stationarity: ``(*batch,)`` ``|d g/d phi|`` there, for each task.
        converged: ``(*batch,)`` true where that met the solver's tolerance; None if it was given
            a number of steps only. Where ``rtol=0`` asks for what this precision gives (Newton,
            LBFGS), whether that was reached before the steps were used up.
        steps: steps taken.
    """

    phi: Phi
    stationarity: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"] | None
    steps: int


@runtime_checkable
class LowerSolver(Protocol):
    """Finds the minimiser of every task's lower objective; keeps no graph."""

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Minimise ``lower(theta, .)`` from ``phi``."""
        ...


@runtime_checkable
class Particular(LowerSolver, Protocol):
    """A lower solver for some conditions only."""

    def require(self, lower: object) -> None:
        """Raise :class:`InputError` for a lower objective that it is not for."""
        ...


@runtime_checkable
class RootSolver(Protocol):
    """Finds the root of every task's equation; keeps no graph."""

    def find(self, equation: Equation[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Solve ``F(theta, .) = 0`` from ``phi``; the answer's ``stationarity`` is ``|F|``."""
        ...


def solve(by: LowerSolver | RootSolver, lower: Any, theta: Any, phi: Any) -> Minimum[Any]:
    """The lower level's solution: of a saddle, the root of its equation, with u = 0."""
    require_fitting(by, lower)
    if isinstance(lower, Saddle):
        found = cast(RootSolver, by).find(lower.equation, theta, phi.phi)
        return replace(found, phi=paired(found.phi))
    if is_indefinite(lower):
        with torch.no_grad():
            tasks = lower(theta, phi).ndim
        return cast(RootSolver, by).find(Gradient(lower, tasks), theta, phi)
    return cast(LowerSolver, by).minimise(lower, theta, phi)


def require_fitting(by: object, lower: object) -> None:
    """Raise if a lower solver is not for this condition.

    Solvers for smooth objectives would walk along the bounds and kinks that the start is on, and
    see no other.

    Raises:
        InputError: naming both.
    """
    name = f"the class {by.__name__}" if isinstance(by, type) else type(by).__name__
    equation = lower.equation if isinstance(lower, Saddle) else lower
    if is_equation(equation) or is_indefinite(lower):
        if isinstance(by, type) or not isinstance(by, RootSolver):
            kind = type(equation).__name__
            raise InputError(
                f"by is {name}, which solves no {kind}; use Anderson or Iteration for a "
                "FixedPoint, NewtonKrylov or Broyden for any equation (hypergrad.solvers), or "
                "your own value with find(equation, theta, phi)."
            )
    elif isinstance(by, type) or not isinstance(by, LowerSolver):
        raise InputError(
            f"by is {name}, which minimises no objective; use GradientDescent, Newton, LBFGS, or "
            "your own value with minimise(lower, theta, phi). If phi is a root or a fixed point, "
            "say so: hypergrad.conditions."
        )
    elif isinstance(by, Particular):
        by.require(lower)
    elif is_non_smooth(lower):
        raise InputError(
            f"{name} minimises smooth objectives, and the lower objective has bounds "
            "or kinks; use by=solvers.ProximalGradient(), or a solver of your own with "
            "require(lower)."
        )


Memory: TypeAlias = tuple[Tensor, ...]
"""State of a solver from step to step beside phi (momentum, say); ``()`` before the first.
Each tensor begins with the tasks' dimensions."""


@runtime_checkable
class Unrollable(LowerSolver, Protocol):
    """A lower solver whose steps can be recorded for differentiation."""

    @property
    def max_steps(self) -> int:
        """Largest number of steps."""
        ...

    def taken(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Int[Tensor, "*batch"]:
        """Number of steps that each task takes from phi; ``()`` if all take ``max_steps``."""
        ...

    def step(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        memory: Memory = (),
        until: Int[Tensor, "*batch"] | None = None,
    ) -> tuple[Phi, Memory]:
        """One step, differentiable in theta, phi and memory, which may be detached in between.

        ``until`` is what ``taken`` has said, for steps that are taken again: a task then ends after
        that many steps, not where it meets a tolerance, which rounding might have it do elsewhere.

        Every task takes the first one, whose derivative would else be zero unsaid. After that, one
        that has met a tolerance takes no more: it answers with where it met it, for ever after.
        """
        ...
