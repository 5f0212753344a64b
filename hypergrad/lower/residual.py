"""An equation as a function of vectors, and the backtracking that its solvers share."""

from __future__ import annotations

from typing import Any, Generic

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypergrad.equation import Equation, FixedPointEquation, Saddle, aligned, paired
from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.implicit.saddle import Jacobian
from hypergrad.linear.vectors import norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.minimum import Minimum
from hypergrad.tree import Phi, detach, flatten, leaves, like, unflatten

_DECREASE = 1e-4  # share of the decrease that a full Newton step would bring, asked for at least
_HALVINGS = 40


class Residual(Generic[Phi]):
    """``F(theta, .)`` of each task as a function of phi as a vector.

    Attributes:
        x: ``(*batch, n)`` the start.
        f: ``(*batch, n)`` F there, after the checks of :func:`hypergrad.objective.evaluate`.
    """

    x: Float[Tensor, "*batch n"]
    f: Float[Tensor, "*batch n"]

    def __init__(self, equation: Equation[Any, Phi], theta: Any, phi: Phi) -> None:
        self._equation, self._theta, self._phi = equation, detach(theta), detach(phi)
        self.f = self._linearised(self._phi).residual
        self.x = flatten(leaves(self._phi), self.f.shape[:-1])

    def at(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """F, which may be anything but finite; no graph is kept."""
        phi = self.tree(x)
        with torch.no_grad():
            found = self._equation.residual(self._theta, phi)
        return flatten(aligned(found, phi, type(self._equation).__name__), x.shape[:-1])

    def linearised(self, x: Float[Tensor, "*batch n"]) -> Jacobian:
        """F with products of its Jacobian.

        Raises:
            NotFiniteError: F is NaN or infinite.
        """
        return self._linearised(self.tree(x))

    def _linearised(self, phi: Phi) -> Jacobian:
        constant = [False] * len(leaves(self._theta))
        return Jacobian(Saddle(self._equation), self._theta, paired(phi), needed=constant)

    def tree(self, x: Float[Tensor, "*batch n"]) -> Phi:
        """A vector as a tree like phi."""
        return like(self._phi, unflatten(x, leaves(self._phi)))

    def ended(
        self,
        solver: object,
        x: Float[Tensor, "*batch n"],
        size: Float[Tensor, "*batch"],
        converged: Bool[Tensor, "*batch"] | None,
        steps: int,
    ) -> Minimum[Phi]:
        """The answer of a solver that ended at x.

        Raises:
            NotFiniteError: the iteration diverged.
        """
        what = f"the residual |F| where {type(solver).__name__} ended"
        require_finite(size, what, per_task=True)
        return Minimum(phi=self.tree(x), stationarity=size, converged=converged, steps=steps)


def require_fixed_point(equation: object, solver: object) -> None:
    """Raise if the equation is stated as a root, whose F need not be in phi's units.

    Raises:
        InputError: naming both.
    """
    if not isinstance(equation, FixedPointEquation):
        raise InputError(
            f"{type(solver).__name__} iterates a map, and {type(equation).__name__} has none; use "
            "NewtonKrylov or Broyden, or state FixedPoint(T), with T = phi - s F(theta, phi) if "
            "that contracts."
        )


def backtracked(
    residual: Residual[Any],
    x: Float[Tensor, "*batch n"],
    f: Float[Tensor, "*batch n"],
    direction: Float[Tensor, "*batch n"],
    active: Bool[Tensor, "*batch"],
    *,
    halvings: int = _HALVINGS,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Bool[Tensor, "*batch"]]:
    """Each task's step along a direction, by halving from 1 until ``|F|`` is lower.

    Along Newton's direction ``|F|`` falls by the step's length to first order; a ten-thousandth of
    that is asked for.

    Returns:
        x and F there, both as before for tasks that found no such step; and which did.
    """
    size = norm(f)
    length, pending = active.to(size.dtype), active
    here, there = x, f
    for _ in range(halvings):
        trial = x + length[..., None] * direction
        image = residual.at(trial)
        lower = pending & (norm(image) <= (1 - _DECREASE * length) * size)  # False for NaN
        lower = lower & (norm(image) < size)
        here = torch.where(lower[..., None], trial, here)
        there = torch.where(lower[..., None], image, there)
        pending = pending & ~lower
        if not bool(pending.any()):
            break
        length = torch.where(pending, length / 2, length)
    return here, there, active & ~pending


def goal_of(tolerance: Tolerance, residual: Residual[Any]) -> Float[Tensor, "*batch"]:
    """Goal for ``|F|``, in the units of :class:`Tolerance`."""
    return tolerance.goal(residual.f, lambda: residual.at(residual.x / 2))
