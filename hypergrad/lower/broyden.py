"""Broyden's method: Newton's, with an inverse Jacobian learned from the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.equation import Equation
from hypergrad.linear.vectors import dot, norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.minimum import Minimum
from hypergrad.lower.residual import Residual, backtracked, goal_of
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta

_HALVINGS = 10  # a direction that needs more comes from an inverse that has gone wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Broyden:
    """Broyden's first ("good") method (1965), from values of F alone but for one product a start.

    The inverse Jacobian is ``s I`` plus a rank-one term for each step, of which ``depth`` are kept,
    two vectors each; when they are used up it starts anew. s is the length of the minimal-residual
    step along F, found by one product: no units are assumed. A task whose step lowers
    ``|F|`` at none of ten lengths starts anew, too, and ends there if it had only just begun.

    Attributes:
        rtol: tolerance on ``|F|`` relative to the size of its terms at the start, see
            :class:`Tolerance`; 0 asks for round-off: where ``|F|`` falls no more.
        atol: absolute tolerance on it.
        max_steps: at most this many steps.
        depth: number of rank-one terms that are kept.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 200
    depth: int = 20

    def __post_init__(self) -> None:
        check_tolerances("Broyden", self.rtol, self.atol)
        check_max_steps("Broyden", self.max_steps, least=1)
        check_max_steps("Broyden", self.depth, least=1, name="depth")

    def find(self, equation: Equation[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Find each task's root from ``phi``.

        Raises:
            InputError: the equation can't be used.
            NotFiniteError: F is NaN or infinite where it ended.
        """
        residual, tolerance = Residual(equation, theta, phi), Tolerance(self.rtol, self.atol)
        x, f, size = residual.x, residual.f, norm(residual.f)
        goal = goal_of(tolerance, residual)
        inverse = _Inverse(x, min(self.depth, self.max_steps))
        inverse.start(torch.ones_like(size, dtype=torch.bool), _unit_step(residual, x, f))
        active, steps = size > goal, 0
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            direction = -inverse.times(f)
            there, image, stepped = backtracked(
                residual, x, f, direction, active, halvings=_HALVINGS
            )
            anew = active & (inverse.full | ~stepped)
            ended = active & ~stepped & inverse.empty
            inverse.learn(there - x, image - f, stepped)
            x, f, size = there, image, norm(image)
            if bool((anew & ~ended).any()):
                inverse.start(anew, _unit_step(residual, x, f))
            active = active & ~ended & (size > goal)
        converged = tolerance.converged(size, goal) if tolerance else ~active
        return residual.ended(self, x, size, converged, steps)


def _unit_step(residual: Residual[Any], x: Tensor, f: Tensor) -> Float[Tensor, "*batch"]:
    """The s of least ``|f - s A f|``; its size alone where A turns f by a right angle."""
    image = residual.linearised(x).forward(f)
    along, square = dot(image, f), dot(image, image)
    safe = torch.where(square > 0, square, 1.0)
    turned = along.abs() <= 0.1 * norm(image) * norm(f)
    size = norm(f) / torch.where(square > 0, norm(image), 1.0)
    return torch.where(turned, torch.where(along < 0, -size, size), along / safe)


class _Inverse:
    """``s I + sum_k u_k v_k'`` of each task.

    Attributes:
        count: ``(*batch,)`` the terms of each task.
    """

    def __init__(self, x: Tensor, depth: int) -> None:
        self._left = x.new_zeros(*x.shape[:-1], depth, x.shape[-1])
        self._right = torch.zeros_like(self._left)
        self._scale = torch.ones_like(norm(x))
        self.count = torch.zeros_like(self._scale, dtype=torch.int64)

    @property
    def full(self) -> Tensor:
        return self.count >= self._left.shape[-2]

    @property
    def empty(self) -> Tensor:
        return self.count == 0

    def start(self, tasks: Tensor, scale: Tensor) -> None:
        """Forget all terms of the tasks."""
        self._scale = torch.where(tasks, scale, self._scale)
        self._left = torch.where(tasks[..., None, None], 0.0, self._left)
        self.count = torch.where(tasks, 0, self.count)

    def times(self, vector: Tensor) -> Tensor:
        """The product with a vector."""
        return self._applied(self._left, self._right, vector)

    def _applied(self, left: Tensor, right: Tensor, vector: Tensor) -> Tensor:
        weights = right @ vector[..., None]
        return self._scale[..., None] * vector + (left.mT @ weights)[..., 0]

    def learn(self, step: Tensor, change: Tensor, tasks: Tensor) -> None:
        """Make the inverse map the change of F to the step that caused it, where there is room."""
        image = self.times(change)
        row = self._applied(self._right, self._left, step)  # the transpose's product
        curved = dot(step, image)
        known = tasks & ~self.full & (curved.abs() > 1e-8 * norm(step) * norm(image))
        left = (step - image) / torch.where(known, curved, 1.0)[..., None]
        slot = torch.arange(self._left.shape[-2], device=step.device) == self.count[..., None]
        place = (slot & known[..., None])[..., None]
        self._left = torch.where(place, left[..., None, :], self._left)
        self._right = torch.where(place, row[..., None, :], self._right)
        self.count = self.count + known
