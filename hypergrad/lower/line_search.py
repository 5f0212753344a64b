"""Backtracking on the lower objective, each task by itself: shared by Newton and L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypergrad.linear.vectors import dot
from hypergrad.objective import Objective, evaluate
from hypergrad.tree import Phi, Theta, detach, flatten, fresh_leaf, leaves, like, unflatten

_DECREASE = 1e-4  # Armijo's share of the predicted decrease (Nocedal and Wright 2006, section 3.1)
_TURNED = 0.8  # of the slope that may be left, uphill, where g itself drowns in rounding
_HALVINGS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Point of every task, with value and gradient.

    Attributes:
        x: ``(*batch, n)`` phi as a vector.
        values: ``(*batch,)`` g there.
        gradient: ``(*batch, n)`` d g/d phi there.
    """

    x: Float[Tensor, "*batch n"]
    values: Float[Tensor, "*batch"]
    gradient: Float[Tensor, "*batch n"]

    def where(self, mask: Bool[Tensor, "*batch"], other: Point) -> Point:
        """This point for the tasks in ``mask``, the other for the rest."""
        return Point(
            x=torch.where(mask[..., None], self.x, other.x),
            values=torch.where(mask, self.values, other.values),
            gradient=torch.where(mask[..., None], self.gradient, other.gradient),
        )


class Probe(Generic[Theta, Phi]):
    """The lower objective as a function of vectors."""

    def __init__(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> None:
        self._lower: Objective[Theta, Phi] = lower
        self._theta: Theta = detach(theta)
        self._phi: Phi = detach(phi)

    def start(self) -> Point:
        """The given phi, after the checks of :func:`evaluate`.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: g is NaN or infinite.
        """
        probes = [fresh_leaf(leaf) for leaf in leaves(self._phi)]
        with torch.enable_grad():
            values = evaluate(self._lower, self._theta, like(self._phi, probes))
            gradients = torch.autograd.grad(values.sum(), probes)
        return Point(
            x=flatten(leaves(self._phi), values.shape),
            values=values.detach(),
            gradient=flatten(gradients, values.shape),
        )

    def at(self, x: Float[Tensor, "*batch n"]) -> Point:
        """A trial point, which may be anything but finite."""
        probes = [fresh_leaf(part) for part in unflatten(x, leaves(self._phi))]
        with torch.enable_grad():
            values = self._lower(self._theta, like(self._phi, probes))
            gradients = torch.autograd.grad(values.sum(), probes)
        return Point(x=x, values=values.detach(), gradient=flatten(gradients, values.shape))

    def tree(self, x: Float[Tensor, "*batch n"]) -> Phi:
        """A vector as a tree like phi."""
        return like(self._phi, unflatten(x, leaves(self._phi)))


def backtrack(
    probe: Probe[Theta, Phi],
    here: Point,
    direction: Float[Tensor, "*batch n"],
    active: Bool[Tensor, "*batch"],
    scale: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Point]:
    """Each task's step along a descent direction, by halving from 1.

    A length is acceptable if g decreases as Armijo asks. Close to the minimiser g's decrease is
    of the gradient's square and drowns in rounding, while the slope along the direction still
    tells: there, a length is acceptable if g is where it was but for rounding and the slope has
    not turned uphill by more than 0.8 of what it was, which on a quadratic is Armijo's condition
    with 0.1 (Hager and Zhang 2005, section 2). The first clause matters: on the way over a hill
    the slope vanishes on its top, too.

    Args:
        probe: the objective.
        here: points at which the tasks stand.
        direction: direction of descent for every active task.
        active: ``(*batch,)`` true for tasks that take part.
        scale: ``|g|`` as far as it is known, which rounding in g is relative to.

    Returns:
        The lengths, 0 where the task is not active or no length is acceptable; and the point
        that was reached, ``here`` for those tasks.
    """
    direction = torch.where(active[..., None], direction, 0.0)
    slope = dot(here.gradient, direction)
    rounding = torch.finfo(scale.dtype).eps ** (2 / 3) * scale
    length = active.to(slope.dtype)
    pending = active
    for _ in range(_HALVINGS):
        there = probe.at(here.x + length[..., None] * direction)
        enough = there.values <= here.values + _DECREASE * length * slope  # False for NaN
        level = there.values <= here.values + rounding
        turned = dot(there.gradient, direction) <= -_TURNED * slope
        pending = pending & ~(enough | (level & turned))
        if not bool(pending.any()):
            break
        length = torch.where(pending, length / 2, length)
    taken = active & ~pending
    return torch.where(taken, length, 0.0), there.where(taken, here)
