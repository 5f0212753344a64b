"""Dense Cholesky: exact for small systems, and the reference for all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.engine import vectorised
from hypergrad.errors import InputError
from hypergrad.guards import may_look, noting
from hypergrad.linear.operator import Kind, LinearMap, Operator
from hypergrad.linear.solution import Solution, Status, direct

# So few columns cost less one by one than the transform that takes them together.
_ONE_BY_ONE = 2
# A vectorised product of many tasks' matrices may expand them to one copy for each column; up to so
# many entries that costs less than taking the columns one by one.
_EXPANDED = 2**17


@dataclass(frozen=True, slots=True, kw_only=True)
class Cholesky:
    """Build the matrix by n products, factorise it, solve.

    Takes n + 1 products, many at once where the map can be vectorised (``torch.vmap``), and
    ``O(n^2)`` memory for each task, besides what a product holds meanwhile, ``at_once`` times.
    Only the lower triangle is used; the recomputed residual shows a map that is not symmetric.

    Attributes:
        rtol: the recomputed relative residual above which the solution is not called converged.
            Factorising is backward stable, so the residual is about ``eps |A| |x| / |b|``.
        at_once: products taken at once; fewer where a product holds much beside its vectors, as
            over many examples.
    """

    needs: ClassVar[Kind] = Kind.DEFINITE
    rtol: float = 1e-6
    at_once: int = 128

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise InputError(f"Cholesky got at_once={self.at_once}; it must be at least 1.")
        if not 0 < self.rtol < 1:
            raise InputError(f"Cholesky got rtol={self.rtol}; it must be in (0, 1).")

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
        factor, info = torch.linalg.cholesky_ex(matrix)
        if may_look(info) and not (info.any() if info.ndim else info):
            inverse, least = partial(_solved, factor), _least_quotient(matrix)
            product.leave(inverse, inverse)
            return direct(product, inverse(rhs), rhs, rtol=self.rtol, curvature=least)
        return self._of_any(product, matrix, rhs)

    def _of_any(self, product: Operator, matrix: Tensor, rhs: Tensor) -> Solution:
        """The solution where a task's matrix may be indefinite, or not finite."""
        finite = matrix.isfinite().all(dim=-1).all(dim=-1)
        safe = torch.where(finite[..., None, None], matrix, _eye(rhs))
        factor, info = torch.linalg.cholesky_ex(safe)
        indefinite = info > 0
        least = _least_quotient(safe)
        if bool(indefinite.any()):
            # the proof is the least eigenvalue of the triangle that the factorisation read
            least = torch.where(indefinite, torch.linalg.eigvalsh(safe)[..., 0], least)
        x = torch.where((finite & ~indefinite)[..., None], _solved(factor, rhs), 0.0)
        found = direct(product, x, rhs, rtol=self.rtol, curvature=least)
        found.status.masked_fill_(indefinite, Status.INDEFINITE)
        found.status.masked_fill_(~finite | ~found.residual.isfinite(), Status.NOT_FINITE)
        return found


def _solved(factor: Tensor, rhs: Tensor) -> Tensor:
    # cholesky_solve copies the factor each time
    forward = torch.linalg.solve_triangular(factor, rhs[..., None], upper=False)
    solved: Tensor = torch.linalg.solve_triangular(factor.mT, forward, upper=True)
    return solved[..., 0]


def _least_quotient(matrix: Tensor) -> Tensor:
    """The least Rayleigh quotient ``e_j'A e_j`` met; infinite of no unknowns."""
    if not matrix.shape[-1]:
        return matrix.new_full(matrix.shape[:-2], torch.inf)
    return matrix.diagonal(dim1=-2, dim2=-1).amin(dim=-1)


def columns_at_once(shape: Size, limit: int) -> int:
    """Number of columns of dense matrices in one vectorised product, at most ``limit``.

    Args:
        shape: shape of the vectors, ``(*batch, n)``.
        limit: the caller's.
    """
    tasks, n = shape[:-1].numel(), shape[-1]
    fitting = n if tasks <= 1 else _EXPANDED // max(tasks * n**2, 1)
    together = min(n, limit, fitting)
    return together if together > _ONE_BY_ONE else 1


def dense(
    apply: LinearMap,
    shaped_as: Float[Tensor, "*batch n"],
    *,
    at_once: int = 128,
    only: Sequence[int] | None = None,
) -> Float[Tensor, "*batch n k"]:
    """The matrices of a linear map, so many columns at once where the map can be vectorised.

    Args:
        apply: the map.
        shaped_as: a vector of its size and dtype.
        at_once: so many.
        only: these columns; None for all.
    """
    batch, units = shaped_as.shape[:-1], _units(shaped_as, only)
    if not (count := units.shape[0]):
        return shaped_as.new_zeros(*batch, shaped_as.shape[-1], 0)
    # partial: the tests' type checker wraps a function that is defined here at each call
    column = partial(_column, apply)
    together = columns_at_once(shaped_as.shape, at_once)
    if together > 1 and noting() is None:  # a check that waits must not hold a vectorised value
        try:
            if together >= count:
                return vectorised(column if batch else apply, units)
            return torch.cat([vectorised(column, some) for some in units.split(together)], dim=-1)
        except Exception:  # whatever it is: one by one it works, or fails in its own words
            units = _units(shaped_as, only)
    return torch.stack([column(unit) for unit in units], dim=-1)


def _units(shaped_as: Tensor, only: Sequence[int] | None) -> Tensor:
    """Unit vectors ``(k, *batch, n)``, which tasks share."""
    units = _eye(shaped_as)
    if only is not None:
        units = units[list(only)]
    batch, n = shaped_as.shape[:-1], shaped_as.shape[-1]
    if not batch:
        return units
    return units.view(len(units), *(1 for _ in batch), n).expand(-1, *batch, -1)


def _column(apply: LinearMap, unit: Tensor) -> Tensor:
    """The product, which may write into what it gets."""
    return apply(unit.clone())


def _eye(shaped_as: Tensor) -> Tensor:
    return torch.eye(shaped_as.shape[-1], dtype=shaped_as.dtype, device=shaped_as.device)
