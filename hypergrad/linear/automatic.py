"""The solver that is chosen where none is given."""

from __future__ import annotations

from torch import Tensor

from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky
from hypergrad.linear.gmres import GMRES, shortest
from hypergrad.linear.lu import LU
from hypergrad.linear.minres import MINRES
from hypergrad.linear.operator import Kind, Operator
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import norm
from hypergrad.linear.woodbury import Woodbury

# Up to so many unknowns, and so many entries over all tasks, a dense Hessian is formed.
DENSE_UNKNOWNS = 128
DENSE_ENTRIES = 2**20


def chosen(operator: Operator, rhs: Tensor) -> LinearSolver:
    """The default for a system: the closed form's inverse, a dense solve where small, else Krylov.

    That is Cholesky and CG for a positive definite matrix, LU and MINRES for a symmetric one that
    may be indefinite, LU and GMRES for an equation's. Products that are not exact are not taken for
    each column of a dense matrix: CG or MINRES asks for the residual that they allow. Nor is a
    dense matrix made of rough products, which only a solver that restarts can make up for.
    """
    if operator.form is not None:
        return Woodbury()
    if operator.accuracy:
        kind = CG if operator.kind is Kind.DEFINITE else MINRES
        return kind(rtol=max(kind().rtol, operator.accuracy))
    if operator.rough:
        return CG() if operator.kind is Kind.DEFINITE else MINRES()
    unknowns = rhs.shape[-1] if operator.halves is None else rhs.shape[-1] // 2
    entries = rhs.shape[:-1].numel() * unknowns**2
    small = unknowns <= DENSE_UNKNOWNS and entries <= DENSE_ENTRIES
    if operator.halves is not None or operator.kind is Kind.GENERAL:
        return LU() if small else GMRES()
    if operator.kind is not Kind.DEFINITE:
        return LU() if small else MINRES()
    return Cholesky() if small else CG()


def least_length(operator: Operator, rhs: Tensor, products: int) -> Tensor:
    """A lower bound on ``|A^-1 rhs|``, about as large: by the closed form, or by few products."""
    if operator.form is not None:
        return norm(operator.form.inverse(rhs))
    if operator.halves is not None:  # K^-1 (0, F) = (A^-1 F, 0)
        return shortest(operator.halves.transposed, rhs.chunk(2, dim=-1)[1], products)
    if operator.kind is not Kind.DEFINITE:
        return shortest(operator, rhs, products)
    return norm(CG(rtol=0.1, max_steps=products).solve(operator, rhs).x)
