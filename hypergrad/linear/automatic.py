"""The solver that is chosen where none is given."""

from __future__ import annotations

from torch import Tensor

from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky
from hypergrad.linear.operator import Operator
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.woodbury import Woodbury

# Up to so many unknowns, and so many entries over all tasks, a dense Hessian is formed.
DENSE_UNKNOWNS = 128
DENSE_ENTRIES = 2**20


def chosen(operator: Operator, rhs: Tensor) -> LinearSolver:
    """The default for a system: the closed form's inverse, a dense solve where small, else CG.

    Products that are not exact are not taken for each column of a dense matrix: CG asks for the
    residual that they allow.
    """
    if operator.form is not None:
        return Woodbury()
    if operator.accuracy:
        return CG(rtol=max(CG().rtol, operator.accuracy))
    unknowns = rhs.shape[-1]
    if unknowns <= DENSE_UNKNOWNS and rhs.numel() * unknowns <= DENSE_ENTRIES:
        return Cholesky()
    return CG()


def loosely(operator: Operator, rhs: Tensor, products: int) -> Tensor:
    """About ``A^-1 rhs``, and no longer than it: by the closed form, or by few products."""
    if operator.form is not None:
        return operator.form.inverse(rhs)
    return CG(rtol=0.1, max_steps=products).solve(operator, rhs).x
