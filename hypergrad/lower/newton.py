"""Damped Newton on the lower objective, for all tasks together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.cg import CG
from hypergrad.linear.solution import LinearSolver, dot, norm
from hypergrad.linearise import Linearisation
from hypergrad.lower.minimum import Minimum
from hypergrad.objective import Objective, fresh_leaf, refuse_not_finite
from hypergrad.tree import Phi, Theta, detach, flatten, leaves, like

_DECREASE = 1e-4  # Armijo's share of the predicted decrease (Nocedal and Wright 2006, section 3.1)
_HALVINGS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Newton:
    """Newton steps ``H d = -d g/d phi`` with each task's own backtracking.

    Where the solve meets negative curvature and leaves no descent direction, the gradient is the
    direction. A task stops when its gradient meets the tolerance, or when neither g nor its
    gradient can be lowered in this precision: asking for ``rtol=0`` gives the minimiser to
    round-off.

    Attributes:
        rtol: tolerance on ``|d g/d phi|`` relative to the start's.
        atol: absolute tolerance on it.
        max_steps: at most this many steps.
        solver: solves for the direction; a loose CG makes this an inexact Newton method.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 50
    solver: LinearSolver = field(default_factory=lambda: CG(rtol=1e-3))

    def __post_init__(self) -> None:
        if not (0 <= self.rtol < 1 and self.atol >= 0 and self.max_steps >= 1):
            raise InputError(
                f"Newton got rtol={self.rtol}, atol={self.atol}, max_steps={self.max_steps}; it "
                "needs rtol in [0, 1), atol >= 0, max_steps >= 1."
            )

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Minimise each task's objective from ``phi``.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: g or its gradient is NaN or infinite at an accepted point.
        """
        theta, phi = detach(theta), detach(phi)
        constant = [False] * len(leaves(theta))
        point = Linearisation(lower, theta, phi, needed=constant)
        size = norm(point.gradient)
        goal = torch.clamp(self.rtol * size, min=self.atol)
        active = size > goal
        steps = 0
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            direction = self._direction(point)
            length = self._length(lower, theta, phi, point, direction, active)
            moved = _moved(phi, point, length[..., None] * direction)
            there = Linearisation(lower, theta, moved, needed=constant)
            # Neither g nor its gradient went down: round-off is reached, the task stays as it was.
            slack = 4 * torch.finfo(size.dtype).eps * point.values.abs()
            lost = (there.values >= point.values - slack) & (norm(there.gradient) >= size)
            stuck = active & ((length == 0) | lost)
            if bool(stuck.any()):
                length = torch.where(stuck, 0.0, length)
                moved = _moved(phi, point, length[..., None] * direction)
                there = Linearisation(lower, theta, moved, needed=constant)
            phi, point, size = moved, there, norm(there.gradient)
            active = active & ~stuck & (size > goal)
        refuse_not_finite(size, "the gradient where Newton ended", per_task=True)
        return Minimum(phi=phi, stationarity=size, converged=size <= goal, steps=steps)

    def _direction(self, point: Linearisation[Theta, Phi]) -> Tensor:
        """Newton's direction, or the steepest where that does not descend; ``(*batch, n)``."""
        newton = -self.solver.solve(point.product, point.gradient).x
        descends = dot(point.gradient, newton) < 0  # False for NaN too
        return torch.where(descends[..., None], newton, -point.gradient)

    def _length(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        point: Linearisation[Theta, Phi],
        direction: Tensor,
        active: Tensor,
    ) -> Tensor:
        """Each task's step length, by halving from 1; 0 where none is acceptable.

        A step is acceptable if g decreases as Armijo asks, or if the gradient halves: close to
        the minimiser g's decrease is of the gradient's square and drowns in rounding, while the
        gradient still tells (and a Newton step from there squares it).
        """
        size, slope = norm(point.gradient), dot(point.gradient, direction)
        length = torch.where(active, 1.0, torch.zeros_like(slope))
        pending = active
        for _ in range(_HALVINGS):
            values, gradient = _glance(
                lower, theta, _moved(phi, point, length[..., None] * direction)
            )
            enough = values <= point.values + _DECREASE * length * slope
            pending = pending & ~(enough | (norm(gradient) <= size / 2))  # a NaN is no decrease
            if not bool(pending.any()):
                break
            length = torch.where(pending, length / 2, length)
        return torch.where(pending, 0.0, length)


def _glance(lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> tuple[Tensor, Tensor]:
    """Values and gradient at a trial point, which may be anything but finite."""
    probes = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        values = lower(theta, like(phi, probes))
        gradients = torch.autograd.grad(values.sum(), probes)
    return values.detach(), flatten(gradients, values.shape)


def _moved(phi: Phi, point: Linearisation[Theta, Phi], step: Tensor) -> Phi:
    parts = zip(leaves(phi), point.tree(step), strict=True)
    return like(phi, (leaf + part for leaf, part in parts))
