"""The solver that is chosen where none is given.

Those for other matrices than positive definite ones are imported when one is met.
"""

from __future__ import annotations

from torch import Size, Tensor

from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky, columns_at_once
from hypergrad.linear.operator import Kind, Operator
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import norm

# A dense Hessian is formed where that costs no more than about 16 steps of CG, which is about what
# kappa = 10 takes (`python -m benchmarks.crossover`): a single task's up to so many unknowns, those
# of many tasks in so many vectorised products, and with so many entries over all tasks.
DENSE_UNKNOWNS = 128
DENSE_PRODUCTS = 16
DENSE_ENTRIES = 2**20

_DENSE, _KRYLOV = Cholesky(), CG()


def chosen(operator: Operator, rhs: Tensor) -> LinearSolver:
    """The default for a system: the closed form's inverse, a dense solve where small, else Krylov.

    That is Cholesky and CG for a positive definite matrix, LU and MINRES for a symmetric one that
    may be indefinite, LU and GMRES for an equation's. Products that are not exact are not taken for
    each column of a dense matrix: CG or MINRES asks for the residual that they allow. Nor is a
    dense matrix made of rough products, which only a solver that restarts can make up for.
    """
    if operator.form is not None:
        from hypergrad.linear.woodbury import Woodbury

        return Woodbury()
    if operator.kind is not Kind.DEFINITE or operator.halves is not None:
        return _of_others(operator, rhs)
    if operator.accuracy:
        return CG(rtol=max(CG().rtol, operator.accuracy))
    if operator.rough:
        return _KRYLOV
    return _DENSE if _is_small(rhs.shape) else _KRYLOV


def _of_others(operator: Operator, rhs: Tensor) -> LinearSolver:
    """The default for a matrix that need not be positive definite."""
    from hypergrad.linear.gmres import GMRES
    from hypergrad.linear.lu import LU
    from hypergrad.linear.minres import MINRES

    if operator.accuracy:
        return MINRES(rtol=max(MINRES().rtol, operator.accuracy))
    if operator.rough:
        return MINRES()
    unknowns = rhs.shape[-1] if operator.halves is None else rhs.shape[-1] // 2
    if _is_small(Size((*rhs.shape[:-1], unknowns))):
        return LU()
    is_general = operator.halves is not None or operator.kind is Kind.GENERAL
    return GMRES() if is_general else MINRES()


def _is_small(shape: Size) -> bool:
    """True if dense matrices for vectors of this shape cost less than the steps of an iteration."""
    unknowns, entries = shape[-1], shape.numel() * shape[-1]
    most = DENSE_PRODUCTS * columns_at_once(shape, DENSE_UNKNOWNS)
    return unknowns <= min(DENSE_UNKNOWNS, most) and entries <= DENSE_ENTRIES


def least_length(operator: Operator, rhs: Tensor, products: int) -> Tensor:
    """A lower bound on ``|A^-1 rhs|``, about as large: by the closed form, or by few products."""
    if operator.form is not None:
        return norm(operator.form.inverse(rhs))
    if operator.halves is not None or operator.kind is not Kind.DEFINITE:
        from hypergrad.linear.gmres import shortest

        if operator.halves is None:
            return shortest(operator, rhs, products)
        # K^-1 (0, F) = (A^-1 F, 0)
        return shortest(operator.halves.transposed, rhs.chunk(2, dim=-1)[1], products)
    return norm(CG(rtol=0.1, max_steps=products).solve(operator, rhs).x)
