"""The Protocol by which an objective offers its own derivatives."""

from __future__ import annotations

from typing import Protocol, TypeGuard, runtime_checkable

from torch import Tensor

from hypergrad.linear.operator import HessianForm
from hypergrad.tree import Phi, Theta


@runtime_checkable
class ClosedForm(Protocol):
    """An objective that knows its gradient and Hessian in phi.

    Solvers then use these in place of autodiff. Answers are still verified by autodiff of
    ``__call__``: the stationarity, the adjoint's residual and the cross product never come from
    here, so that a wrong closed form is reported and not trusted.
    """

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """The values, ``(*batch,)``."""
        ...

    def gradient(self, theta: Theta, phi: Phi) -> Phi:
        """``d g/d phi``, each task's own."""
        ...

    def hessian(self, theta: Theta, phi: Phi) -> HessianForm:
        """``d2g/dphi2`` at a point."""
        ...


def is_closed_form(lower: object) -> TypeGuard[ClosedForm]:
    """True if an objective is a ClosedForm; quicker than ``isinstance`` of a protocol."""
    return hasattr(lower, "hessian") and hasattr(lower, "gradient")
