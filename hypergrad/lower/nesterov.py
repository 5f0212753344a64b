"""Nesterov's accelerated gradient on the lower objective, for all tasks together."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import torch
from jaxtyping import Int
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.vectors import dot
from hypergrad.lower.descent import (
    Progress,
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
from hypergrad.tree import Phi, Theta, flatten, leaves, like


@dataclass(frozen=True, slots=True, kw_only=True)
class Nesterov:
    """Gradient steps from a point extrapolated along the last step.

    With ``y = phi + beta (phi - previous)``, ``phi <- y - step_size d g/d phi(y)``. Given the
    condition number kappa of each task's Hessian and ``step_size = 1/L``,
    ``beta = (sqrt(kappa) - 1)/(sqrt(kappa) + 1)`` and

        ``|phi_K - phi*|^2 <= (kappa + 1) (1 - 1/sqrt(kappa))^K |phi_0 - phi*|^2``

    (Nesterov 2004, Theorem 2.2.3). Without it ``beta_k = (t_k - 1)/t_{k+1}``,
    ``t_{k+1} = (1 + sqrt(1 + 4 t_k^2))/2``, and a task starts over from t = 1 when its step went
    up the slope at y (the gradient scheme of O'Donoghue and Candes 2015, which needs no
    evaluation of its own, unlike the function scheme): nearly the same rate without knowing
    kappa.

    With a tolerance a task stops at the extrapolated point y that met it, after its first step,
    since that is where the gradient is known. Steps can be unrolled; t and restarts are constants
    to differentiation.

    Attributes:
        max_steps: K; with a tolerance, at most that many.
        step_size: at most 1/L.
        condition: kappa >= 1, or None if it is not known.
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`; 0 for none.
        atol: absolute tolerance on it; 0 for none.
    """

    max_steps: int
    step_size: float
    condition: float | None = None
    rtol: float = 0.0
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_max_steps("Nesterov", self.max_steps, least=0)
        check_step_size("Nesterov", self.step_size, limit="at most 1/L, L the largest curvature")
        if self.condition is not None and not 1 <= self.condition < inf:
            raise InputError(
                f"Nesterov got condition={self.condition}; a condition number is at least 1, and "
                "finite. Leave it out if it is not known."
            )
        check_tolerances("Nesterov", self.rtol, self.atol)

    @property
    def _tolerance(self) -> Tolerance:
        return Tolerance(self.rtol, self.atol)

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Take the steps, storing two iterates; then one gradient more, for the evidence.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: the steps diverged.
        """
        return descend(self, range(self.max_steps), lower, theta, phi, self._tolerance)

    def step(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        memory: Memory = (),
        until: Int[Tensor, "*batch"] | None = None,
    ) -> tuple[Phi, Memory]:
        """One step; recorded for differentiation if theta, phi or memory requires grad.

        The memory holds the offset ``y - phi`` of the next point, as phi's leaves, then t,
        ``(*batch,)``, and if there is a tolerance each task's goal and number of steps taken.
        """
        old = leaves(phi)
        ahead = [leaf + shift for leaf, shift in zip(old, memory, strict=False)] or old
        here = Slope.at(lower, theta, like(phi, ahead), measured=True)
        new = [
            point - self.step_size * gradient
            for point, gradient in zip(here.points, here.gradients, strict=True)
        ]
        gone = [after - start for after, start in zip(new, old, strict=True)]
        size = here.size()
        before = memory[len(old)] if memory else torch.ones_like(size)
        beta, t = self._momentum(here, gone, before)
        # beta is as wide as vectors are; each leaf keeps its own dtype
        offset: list[Tensor] = [_spread(beta, part).to(part.dtype) * part for part in gone]
        if not self._tolerance:
            return like(phi, new), (*offset, t)
        progress: Progress = self._tolerance.progress(
            here, memory[len(old) + 1 :], until, lambda: slope_at_half(lower, theta, phi)
        )
        done = progress.done
        new = choose(done, here.points, new)
        offset = choose(done, [torch.zeros_like(part) for part in offset], offset)
        return like(phi, new), (*offset, torch.where(done, 1.0, t), *progress.note)

    def taken(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Int[Tensor, "*batch"]:
        """Number of steps that each task takes from phi; ``()`` without a tolerance."""
        return count(self, lower, theta, phi, self._tolerance)

    def _momentum(self, here: Slope, gone: list[Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
        """Each task's beta for the next extrapolation, and its next t."""
        if self.condition is not None:
            root = sqrt(self.condition)
            return torch.full_like(t, (root - 1) / (root + 1)), t
        gradient = flatten([part.detach() for part in here.gradients], here.batch)
        uphill = dot(gradient, flatten([part.detach() for part in gone], here.batch)) > 0
        grown = (1 + (1 + 4 * t.square()).sqrt()) / 2
        beta = torch.where(uphill, 0.0, (t - 1) / grown)
        return beta, torch.where(uphill, 1.0, grown)


def _spread(values: Tensor, leaf: Tensor) -> Tensor:
    """One value for each task, to be multiplied with a leaf ``(*batch, ...)``."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - values.ndim))
