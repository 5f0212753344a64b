"""Conjugate gradients on the normal equations, for a batch of symmetric systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.krylov import Run, all_ended, check_stopping, iterate
from hypergrad.linear.operator import Kind, LinearMap, Operator
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import dot, scale_of


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalCG:
    """CG on ``A A x = A b``, A symmetric (CGLS; Hestenes and Stiefel 1952, section 10).

    For matrices that are neither definite nor suited to MINRES. It squares the condition number:
    ``((kappa - 1)/(kappa + 1))^N`` in place of CG's ``sqrt(kappa)``, at two products a step. On a
    definite A use CG; on an indefinite one MINRES takes half the products for the same bound, but
    leans on A's symmetry through the whole Lanczos recurrence.

    The residual ``b - A x`` is carried along and verified, not that of the normal equations. Where
    A is singular and b not in its range, x is a least-squares solution, and STAGNATED. Restarting
    is CG's.

    Attributes:
        rtol: relative tolerance on the residual; 0 asks for ``max_steps`` steps.
        atol: absolute tolerance on the residual's norm.
        max_steps: at most this many steps; None means 10 n.
        check_every: steps between two looks for stopped tasks; None: the default of CG.
    """

    needs: ClassVar[Kind] = Kind.SYMMETRIC
    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    check_every: int | None = 1

    def __post_init__(self) -> None:
        check_stopping("NormalCG", self.rtol, self.atol, self.max_steps, self.check_every)

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; see :class:`LinearSolver`."""
        product = Operator(apply)
        return iterate(
            lambda *sweep: _sweep(self.check_every, *sweep),
            product,
            rhs,
            start,
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            check_every=self.check_every,
        )


def _sweep(
    check_every: int | None,
    product: LinearMap,
    run: Run,
    goal: Tensor,
    active: Tensor,
    budget: int,
) -> None:
    """CGLS from the current x (see Sweep), where ``s = A r`` is the normal equations' residual.

    Everything is in units of A's size, c: ``s = (A / c) r``, and x moves by 1/c of a step along p.
    Products with A twice then overflow or underflow for no size of A.
    """
    x, r, began = run.x, run.residual, active
    nought, limit = r.new_zeros(()), goal.square()
    s = product(r)
    unit = scale_of(s) / scale_of(r)
    s = s / unit
    rho, square = dot(s, s), dot(r, r)
    p = torch.where((active & (rho < torch.inf))[..., None], s, nought)
    size, fault = torch.zeros_like(rho), torch.ones_like(rho)
    negligible = (10 * torch.finfo(rho.dtype).eps) ** 2
    for step in range(budget):
        ap = product(p) / unit
        curved, pp = dot(ap, ap), dot(p, p)
        run.curvature = torch.fmin(
            run.curvature, unit[..., 0] * (dot(p, ap) / pp)
        )  # NaN for tasks that stopped
        # |A|^2 is at least |A p|^2 / |p|^2. Where |A r| is ten roundings of |A| |r|, the residual
        # is the least there is, or kappa is above 1/(10 eps)
        size = torch.fmax(size, curved / pp)
        margin = torch.minimum(curved, rho - negligible * size * square)
        fault = torch.where(active, margin, fault)
        active = active & (margin > 0)
        alpha = torch.where(active, rho / curved, nought)[..., None]
        x.addcmul_(alpha / unit, p)
        r.addcmul_(alpha, ap, value=-1)
        run.steps += active
        square = dot(r, r)
        active = active > (square <= limit)  # active and not there yet
        if all_ended(active, step, check_every):
            break
        s = product(r) / unit
        rho, old = dot(s, s), rho
        beta = (rho / old)[..., None]
        moves = active & (rho < torch.inf)  # an s that is not finite must not reach x
        p = torch.where(moves[..., None], torch.addcmul(s, beta, p), nought)
    run.end(began, active, fault, Status.STAGNATED)
