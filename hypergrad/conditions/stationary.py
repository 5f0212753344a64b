"""``Stationary``: phi is a stationary point of L, and need not be a minimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from hypergrad.conditions.constrained import require_objective
from hypergrad.settings import check_function
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True)
class Stationary(Generic[Theta, Phi]):
    """States that phi solves ``d L/d phi = 0``: a saddle point, say, or that of a Lagrangian.

    Given to ``attach``, ``argmin``, ``hypergradient`` or ``pullback`` in the objective's place. Its
    Hessian is symmetric and declared indefinite: MINRES or LU solves the adjoint system, solvers
    that need a positive definite matrix are refused by name, and negative curvature is no alarm.
    Multipliers of a Lagrangian are leaves of phi.

    Attributes:
        objective: ``L(theta, phi)``, one value for each task.
    """

    objective: Callable[[Theta, Phi], Tensor]

    def __post_init__(self) -> None:
        check_function("Stationary", self.objective, "one value for each task")
        require_objective("Stationary", self.objective)

    @property
    def indefinite(self) -> bool:
        """True: the Hessian may be indefinite, see :func:`hypergrad.objective.is_indefinite`."""
        return True

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """The values of L, ``(*batch,)``."""
        return self.objective(theta, phi)
