"""Dense LU: exact for small systems of any matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import may_look
from hypergrad.linear.cholesky import dense
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.solution import Solution, Status, direct


@dataclass(frozen=True, slots=True, kw_only=True)
class LU:
    """Build the matrix by n products, factorise it with row exchanges, solve.

    For a matrix that is not symmetric, or not definite. Products and memory are Cholesky's. A
    matrix that is singular to the last bit has no answer: x is then 0, and STAGNATED.

    Attributes:
        rtol: the recomputed relative residual above which the solution is not called converged.
        at_once: products taken at once; fewer where a product holds much beside its vectors.
    """

    rtol: float = 1e-6
    at_once: int = 128

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise InputError(f"LU got at_once={self.at_once}; it must be at least 1.")
        if not 0 < self.rtol < 1:
            raise InputError(f"LU got rtol={self.rtol}; it must be in (0, 1).")

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; ``start`` has no use here."""
        product = Operator(apply)
        matrix = dense(product, rhs, at_once=self.at_once)
        product.matvecs = rhs.shape[-1]  # however many of them were taken at once
        finite = matrix.isfinite().all(dim=-1).all(dim=-1)
        eye = torch.eye(rhs.shape[-1], dtype=rhs.dtype, device=rhs.device)
        factors, pivots, info = torch.linalg.lu_factor_ex(
            torch.where(finite[..., None, None], matrix, eye)
        )
        inverse = partial(_solved, factors, pivots)
        regular = finite & (info == 0)
        if may_look(regular) and bool(regular.all()):
            product.leave(inverse, partial(_solved, factors, pivots, transposed=True))
        x = torch.where(regular[..., None], inverse(rhs), 0.0)
        found = direct(product, x, rhs, rtol=self.rtol)
        found.status.masked_fill_(~finite, Status.NOT_FINITE)
        return found


def _solved(factors: Tensor, pivots: Tensor, rhs: Tensor, *, transposed: bool = False) -> Tensor:
    solved: Tensor = torch.linalg.lu_solve(factors, pivots, rhs[..., None], adjoint=transposed)
    return solved[..., 0]
