"""Central differences of gradients in place of second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.engine import filled
from hypergrad.errors import InputError
from hypergrad.graph import no_dependence
from hypergrad.guards import refuse
from hypergrad.linear.vectors import norm
from hypergrad.objective import Objective
from hypergrad.tree import Tree, flatten, fresh_leaf, leaves, like


class Differences:
    """Products with H and J by central differences of first derivatives around a point.

    ``H v = [d g/d phi (phi + h v) - d g/d phi (phi - h v)] / 2h``, ``h |v| = step length``, and
    ``J v`` likewise with ``d g/d theta``.

    Args:
        lower: g.
        theta: where, detached.
        phi: where, detached.
        batch: the tasks' dimensions.
        distance: ``(*batch,)`` length of each task's move of phi.
        needed: the leaves of theta that :meth:`cross` must serve; None: all.
    """

    def __init__(
        self,
        lower: Objective[Any, Any],
        theta: Any,
        phi: Any,
        *,
        batch: Size,
        distance: Tensor,
        needed: Sequence[bool] | None,
    ) -> None:
        self._batch = batch
        self._lower, self._theta, self._phi = lower, theta, phi
        self._needed = [True] * len(leaves(theta)) if needed is None else list(needed)
        self._distance = distance

    def product(self, vector: Tensor) -> Tensor:
        """``H v`` by two gradients."""
        return self._differences(vector, [False] * len(self._needed), in_phi=True)[0]

    def cross(self, vector: Tensor) -> list[Tensor]:
        """``J v`` by two gradients in theta."""
        return self._differences(vector, self._needed, in_phi=False)[1]

    def both(self, vector: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``H v`` and ``J v`` by two gradients."""
        return self._differences(vector, self._needed, in_phi=True)

    def _differences(
        self, vector: Tensor, needed: Sequence[bool], *, in_phi: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the difference, each task weighted by its own step."""
        size = norm(vector)
        share = self._distance / torch.where(size > 0, size, 1.0)
        weight = size / (2 * self._distance)
        upper: list[Tensor] = [
            fresh_leaf(leaf, requires_grad=need)
            for leaf, need in zip(leaves(self._theta), needed, strict=True)
        ]
        wanted = [leaf for leaf in upper if leaf.requires_grad]
        curved: Tensor | None = None
        crossed = [torch.zeros_like(leaf) for leaf in wanted]
        if not (wanted or in_phi):
            return torch.zeros_like(vector), crossed
        depends = in_phi
        for sign in (1.0, -1.0):
            moved = [
                fresh_leaf(leaf, requires_grad=in_phi) for leaf in self._at(vector, sign * share)
            ]
            with torch.enable_grad():
                values = self._lower(like(self._theta, upper), like(self._phi, moved))
                total = (sign * weight * values).sum()
            if not total.requires_grad:
                continue
            inputs = [*wanted, *moved] if in_phi else wanted
            parts: Sequence[Tensor | None] = torch.autograd.grad(total, inputs, allow_unused=True)
            for index, part in enumerate(parts[: len(wanted)]):
                if part is not None:
                    depends, crossed[index] = True, crossed[index] + part
            if in_phi:
                own = filled(parts[len(wanted) :], moved)
                del moved, parts, total, values  # each as large as phi, or holding what is
                gradient = flatten(own, self._batch)
                del own
                curved = gradient if curved is None else curved + gradient
                del gradient
        if not depends:
            raise no_dependence()
        return torch.zeros_like(vector) if curved is None else curved, crossed

    def _at(self, vector: Tensor, share: Tensor) -> list[Tensor]:
        """The leaves of ``phi + share * vector``; leaf by leaf, so that nothing else is as long."""
        points = leaves(self._phi)
        sizes = [leaf.shape[len(self._batch) :].numel() for leaf in points]
        parts = torch.split(vector, sizes, dim=-1)
        # a leaf of 16 bits is rounded once, after the sum
        return [
            (leaf + (part * share[..., None]).reshape(leaf.shape)).to(leaf.dtype)
            for leaf, part in zip(points, parts, strict=True)
        ]


def step_length(phi: Tree) -> float:
    """The relative step of central differences: the cube root of the coarsest leaf's precision."""
    eps = max(torch.finfo(leaf.dtype).eps for leaf in leaves(phi))
    return float(eps ** (1 / 3))


def length_of(phi: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """``|phi|`` of each task; where it is zero, the longest of all tasks."""
    size = norm(phi)
    return torch.where(size > 0, size, size.max()) if size.numel() else size


def require_length(length: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The same lengths.

    Raises:
        InputError: all tasks are at zero, which has no units.
    """
    if length.numel():
        refuse(length.max() == 0, _no_length)
    return length


def _no_length() -> InputError:
    return InputError(
        "FiniteDifference takes its step from |phi|, and phi is zero; give length=, how far phi "
        "may move until the Hessian changes, in phi's units."
    )
