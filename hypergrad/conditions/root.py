"""``Root``: phi solves ``F(theta, phi) = 0``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from torch import Tensor

from hypergrad.equation import Function, no_objective
from hypergrad.settings import check_function, check_tasks
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True)
class Root(Generic[Theta, Phi]):
    """States that phi solves ``F(theta, phi) = 0``, as many equations as unknowns.

    Given to ``attach``, ``argmin``, ``hypergradient`` or ``pullback`` in the objective's place.
    With ``A = dF/dphi`` the adjoint system is ``A' v = d f/d phi``, not symmetric in general, and
    the hypergradient ``-(dF/dtheta)' v``. A product with A' is one backward pass through F.

    Attributes:
        equations: ``F(theta, phi)``, a tree like phi.
        tasks: number of leading dimensions of phi that are independent tasks. With 0, phi is one
            system whatever its shape, which is always right: tasks only let each have its own
            solve, stopping and certificate.
    """

    equations: Callable[[Theta, Phi], Phi]
    tasks: int = 0

    def __post_init__(self) -> None:
        check_function("Root", self.equations, "tensors like phi")
        check_tasks("Root", self.tasks)

    def residual(self, theta: Theta, phi: Phi) -> Phi:
        """F."""
        return self.equations(theta, phi)

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """Raise: an equation takes an objective's place, but is none.

        Raises:
            InputError: always.
        """
        raise no_objective("Root")

    def mapped(self, over: Callable[[Function], Function]) -> Root[Any, Any]:
        """The root of one more leading dimension of tasks; see :class:`Equation`."""
        return Root(over(self.equations), tasks=self.tasks + 1)
