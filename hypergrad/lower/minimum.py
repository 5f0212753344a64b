"""What a lower solver is, and what it answers: a point with its stationarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.implicit.active import NonSmooth
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True)
class Minimum(Generic[Phi]):
    """A point that should minimise the lower objective, with the evidence.

    Attributes:
        phi: the last iterate, cut off from any graph.
        stationarity: ``(*batch,)`` ``|d g/d phi|`` there, for each task.
        converged: ``(*batch,)`` whether that met the solver's tolerance; None if it was given
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


def require_fit(by: LowerSolver, lower: object) -> None:
    """Raise if the solver is not for this lower objective.

    Solvers for smooth objectives would walk along the bounds and kinks that the start is on, and
    see no other.

    Raises:
        InputError: naming both.
    """
    if isinstance(by, Particular):
        by.require(lower)
    elif isinstance(lower, NonSmooth):
        raise InputError(
            f"{type(by).__name__} minimises smooth objectives, and the lower objective has bounds "
            "or kinks; use by=conditions.ProximalGradient(), or a solver of your own with "
            "require(lower)."
        )


Memory: TypeAlias = tuple[Tensor, ...]
"""What a solver carries from step to step beside phi (momentum, say); ``()`` before the first.
Each tensor begins with the tasks' dimensions."""


@runtime_checkable
class Unrollable(LowerSolver, Protocol):
    """A lower solver whose steps can be recorded for differentiation."""

    @property
    def max_steps(self) -> int:
        """How many steps it takes at most."""
        ...

    def taken(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Int[Tensor, "*batch"]:
        """How many steps from phi each task takes; ``()`` if all of them take ``max_steps``."""
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
