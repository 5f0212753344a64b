"""Gradient descent on the lower objective: K steps, nothing kept."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from hypergrad.lower.descent import (
    Slope,
    Tolerance,
    choose,
    count,
    descend,
    slope_at_half,
)
from hypergrad.lower.minimum import Memory, Minimum
from hypergrad.objective import Objective
from hypergrad.settings import check_max_steps, check_step_size, check_tolerances
from hypergrad.tree import Phi, Theta, like


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientDescent:
    """``phi <- phi - step_size d g/d phi``, K times; the lower loop of the paper's Algorithm 1.

    With ``step_size <= 2/(mu + L)`` the distance to the minimiser shrinks by
    ``1 - step_size mu`` a step (theory.md, Theorem A). Without a tolerance exactly K steps are
    taken, which nothing waits for; with one, a task that has met it after its first step stays.

    Attributes:
        max_steps: K; with a tolerance, at most that many.
        step_size: alpha, below 2/L.
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`; 0 for none.
        atol: absolute tolerance on it; 0 for none.
    """

    max_steps: int
    step_size: float
    rtol: float = 0.0
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_max_steps("GradientDescent", self.max_steps, least=0)
        limit = "below 2/L, L the largest curvature; tensors are for Descent(update=...)"
        check_step_size("GradientDescent", self.step_size, limit=limit)
        check_tolerances("GradientDescent", self.rtol, self.atol)

    @property
    def _tolerance(self) -> Tolerance:
        return Tolerance(self.rtol, self.atol)

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Take the steps, storing one iterate; then one gradient more, for the evidence.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: the steps diverged.
        """
        steps = range(self.max_steps)
        return descend(self, steps, lower, theta, phi, self._tolerance)

    def step(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        memory: Memory = (),
        until: Int[Tensor, "*batch"] | None = None,
    ) -> tuple[Phi, Memory]:
        """One step; recorded for differentiation if theta or phi requires grad."""
        here = Slope.at(lower, theta, phi, measured=bool(self._tolerance))
        moved = [
            point - self.step_size * gradient
            for point, gradient in zip(here.points, here.gradients, strict=True)
        ]
        if not self._tolerance:
            return like(phi, moved), ()
        progress = self._tolerance.progress(
            here, memory, until, lambda: slope_at_half(lower, theta, phi)
        )
        return like(phi, choose(progress.done, here.points, moved)), progress.note

    def taken(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Int[Tensor, "*batch"]:
        """Number of steps that each task takes from phi; ``()`` without a tolerance."""
        return count(self, lower, theta, phi, self._tolerance)
