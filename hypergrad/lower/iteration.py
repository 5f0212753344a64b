"""Plain iteration of a map: ``phi <- T(theta, phi)``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hypergrad.equation import Equation
from hypergrad.linear.vectors import norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.minimum import Minimum
from hypergrad.lower.residual import Residual, goal_of, require_fixed_point
from hypergrad.settings import check_max_steps, check_step_size, check_tolerances
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """``phi <- (1 - s) phi + s T(theta, phi)``, one iterate kept.

    Where T contracts by q, the distance to the fixed point shrinks by q a step (s = 1). A smaller s
    converges for any T that is nonexpansive (Krasnoselskii 1955).

    Attributes:
        max_steps: at most this many steps; exactly so many without a tolerance.
        rtol: tolerance on ``|phi - T|`` relative to the size of its terms at the start, see
            :class:`Tolerance`; 0 for none.
        atol: absolute tolerance on it; 0 for none.
        step_size: s, in (0, 1].
    """

    max_steps: int = 1000
    rtol: float = 1e-6
    atol: float = 0.0
    step_size: float = 1.0

    def __post_init__(self) -> None:
        check_max_steps("Iteration", self.max_steps, least=1)
        check_tolerances("Iteration", self.rtol, self.atol)
        check_step_size("Iteration", self.step_size, limit="1 is T itself")

    def find(self, equation: Equation[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Iterate each task from ``phi``.

        Raises:
            InputError: the equation is no fixed point's, or can't be used.
            NotFiniteError: the iteration diverged.
        """
        require_fixed_point(equation, self)
        residual, tolerance = Residual(equation, theta, phi), Tolerance(self.rtol, self.atol)
        x, f, size = residual.x, residual.f, norm(residual.f)
        goal = goal_of(tolerance, residual)
        active, steps = (size > goal) | (not tolerance), 0
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            x = torch.where(active[..., None], x - self.step_size * f, x)
            f = residual.at(x)
            size = torch.where(active, norm(f), size)
            active = active & ((size > goal) | (not tolerance))
        return residual.ended(self, x, size, tolerance.converged(size, goal), steps)
