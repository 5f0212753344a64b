"""``FixedPoint``: phi solves ``phi = T(theta, phi)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from torch import Tensor

from hypergrad.equation import Function, aligned, no_objective
from hypergrad.settings import check_function, check_tasks
from hypergrad.tree import Phi, Theta, leaves, like


@dataclass(frozen=True)
class FixedPoint(Generic[Theta, Phi]):
    """States that phi solves ``phi = T(theta, phi)``: the root of ``phi - T(theta, phi)``.

    Given to ``attach``, ``argmin``, ``hypergradient`` or ``pullback`` in the objective's place. The
    adjoint system is ``(I - dT/dphi)' v = d f/d phi``. That T is a contraction is not needed for
    the derivative, only for iterating it.

    Attributes:
        map: ``T(theta, phi)``, a tree like phi.
        tasks: number of leading dimensions of phi that are independent tasks; see :class:`Root`.
    """

    map: Callable[[Theta, Phi], Phi]
    tasks: int = 0

    def __post_init__(self) -> None:
        check_function("FixedPoint", self.map, "tensors like phi")
        check_tasks("FixedPoint", self.tasks)

    def image(self, theta: Theta, phi: Phi) -> Phi:
        """T."""
        return self.map(theta, phi)

    def residual(self, theta: Theta, phi: Phi) -> Phi:
        """``phi - T(theta, phi)``.

        Raises:
            InputError: T is no tree like phi.
        """
        image = aligned(self.map(theta, phi), phi, "FixedPoint")
        return like(phi, (leaf - part for leaf, part in zip(leaves(phi), image, strict=True)))

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """Raise: an equation takes an objective's place, but is none.

        Raises:
            InputError: always.
        """
        raise no_objective("FixedPoint")

    def mapped(self, over: Callable[[Function], Function]) -> FixedPoint[Any, Any]:
        """The fixed point of one more leading dimension of tasks; see :class:`Equation`."""
        return FixedPoint(over(self.map), tasks=self.tasks + 1)
