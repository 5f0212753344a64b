"""Central differences of gradients in place of second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor

from hypergrad.errors import InputError
from hypergrad.graph import no_dependence
from hypergrad.guards import refuse
from hypergrad.linear.vectors import norm
from hypergrad.objective import Objective
from hypergrad.tree import flatten, fresh_leaf, leaves, like, unflatten


class Differences:
    """Products with H and J by central differences of gradients around a point.

    ``H v = [d g/d phi (phi + h v) - d g/d phi (phi - h v)] / 2h``, ``h |v| = step length``.
    """

    def __init__(
        self,
        lower: Objective[Any, Any],
        theta: Any,
        phi: Any,
        *,
        batch: Size,
        step: float | None,
        length: float | None,
        needed: Sequence[bool] | None,
    ) -> None:
        self._batch = batch
        self._lower, self._theta, self._phi = lower, theta, phi
        self._needed = [True] * len(leaves(theta)) if needed is None else list(needed)
        flat = flatten(leaves(phi), self._batch)
        eps = max(torch.finfo(leaf.dtype).eps for leaf in leaves(phi))
        reach = _length(flat) if length is None else torch.full_like(norm(flat), length)
        self._flat, self._length = flat, (step or eps ** (1 / 3)) * reach

    def product(self, vector: Tensor) -> Tensor:
        """``H v`` by two gradients."""
        unit, size = self._direction(vector)
        sides = []
        for sign in (1.0, -1.0):
            probes = self._probes(sign * self._length[..., None] * unit)
            with torch.enable_grad():
                values = self._lower(self._theta, like(self._phi, probes))
                sides.append(flatten(torch.autograd.grad(values.sum(), probes), self._batch))
        return (sides[0] - sides[1]) * (size / (2 * self._length))[..., None]

    def cross(self, vector: Tensor) -> list[Tensor]:
        """``J v`` by two gradients in theta, each task weighted by its own step."""
        unit, size = self._direction(vector)
        weight = size / (2 * self._length)
        probes = [
            fresh_leaf(leaf, requires_grad=need)
            for leaf, need in zip(leaves(self._theta), self._needed, strict=True)
        ]
        wanted = [probe for probe in probes if probe.requires_grad]
        if not wanted:
            return []
        with torch.enable_grad():
            total = torch.zeros((), dtype=self._flat.dtype, device=self._flat.device)
            for sign in (1.0, -1.0):
                moved = [p.detach() for p in self._probes(sign * self._length[..., None] * unit)]
                values = self._lower(like(self._theta, probes), like(self._phi, moved))
                total = total + (sign * weight * values).sum()
            parts: Sequence[Tensor | None] = torch.autograd.grad(total, wanted, allow_unused=True)
        if all(part is None for part in parts):
            raise no_dependence()
        return [
            torch.zeros_like(leaf) if part is None else part
            for leaf, part in zip(wanted, parts, strict=True)
        ]

    def _direction(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        size = norm(vector)
        return vector / torch.where(size > 0, size, 1.0)[..., None], size

    def _probes(self, shift: Tensor) -> list[Tensor]:
        return [fresh_leaf(part) for part in unflatten(self._flat + shift, leaves(self._phi))]


def _length(phi: Tensor) -> Tensor:
    """``|phi|`` of each task, in its place the largest of all tasks where it is zero.

    Raises:
        InputError: all tasks are at zero, which has no units.
    """
    size = norm(phi)
    if not size.numel():
        return size
    largest = size.max()
    refuse(largest == 0, _no_length)
    return torch.where(size > 0, size, largest)


def _no_length() -> InputError:
    return InputError(
        "FiniteDifference takes its step from |phi|, and phi is zero; give length=, how far phi "
        "may move until the Hessian changes, in phi's units."
    )
