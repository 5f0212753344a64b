"""Conjugate gradients for a batch of symmetric positive definite systems."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.cg_single import sweep_single
from hypergrad.linear.damping import damped_if_indefinite
from hypergrad.linear.krylov import Run, Sweep, all_ended, check_stopping, iterate
from hypergrad.linear.operator import Kind, LinearMap, Operator
from hypergrad.linear.preconditioners import Preconditioner, prepared, scaled
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import dot
from hypergrad.settings import check_damping


@dataclass(frozen=True, slots=True, kw_only=True)
class CG:
    """Conjugate gradients (Hestenes and Stiefel 1952); the paper's Algorithm 2.

    A task stops at ``|b - A x| <= max(rtol |b|, atol)``, at ``max_steps``, or at a direction whose
    curvature is not positive, or positive by no more than rounding; tasks that stopped keep their
    last iterate while others go on. When the recomputed residual is above the goal that the
    recurrence claims, CG restarts from its last iterate, as long as that halves the residual. That
    is iterative refinement where the map's products are in float32, say, and its exact products
    (``Operator.exact``) in float64. After N steps from zero the error in the norm of A is at
    most ``2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^N`` of the solution's (Chebyshev; theory.md 0).

    Damping solves ``(A + damping I) x = b`` and says so: the solution's residual is that of A, its
    status DAMPED unless that meets the tolerance too. With mu the least eigenvalue of A, x is off
    by at most ``damping / (mu + damping) |A^{-1} b|`` (theory.md section 8).

    ``damping="auto"`` damps the tasks that meet negative curvature, as a network's Hessian mostly
    has: by twice the most negative curvature that was found, and by no less than lets
    ``max_steps`` steps meet ``rtol``. A task that meets none is not damped. Each attempt may take
    ``max_steps``, and a look at the ends of the spectrum takes 20 products; ``Solution.damping``
    says what was picked.

    Attributes:
        rtol: relative tolerance on the residual; 0 asks for ``max_steps`` steps (a task still
            stops once its recurrence is below the precision of b, where no step changes x).
        atol: absolute tolerance on the residual's norm.
        max_steps: at most this many steps; None means 10 n.
        damping: at least 0; or "auto".
        preconditioner: builds an approximate inverse of A from its products, :class:`Jacobi` say;
            or your own: the product with one. Symmetric positive definite.
        check_every: steps between two looks whether all tasks have stopped, each of which
            makes the host wait for the device. Changes no result, only how many products follow
            the last task's end. None: never; ``max_steps`` products in one sweep, without restart,
            and the host waits for nothing.
    """

    needs: ClassVar[Kind] = Kind.DEFINITE
    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    damping: float | Literal["auto"] = 0.0
    preconditioner: Preconditioner | LinearMap | None = None
    check_every: int | None = 1

    def __post_init__(self) -> None:
        check_stopping("CG", self.rtol, self.atol, self.max_steps, self.check_every)
        check_damping("CG", self.damping)
        if self.damping == "auto" and (self.rtol == 0 or self.check_every is None):
            raise InputError(
                f'CG got damping="auto", rtol={self.rtol} and check_every={self.check_every}: the '
                "damping is picked after a look at the curvature, and so that max_steps meets "
                "rtol; give a positive rtol and a number of steps between two looks."
            )

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; see :class:`LinearSolver`."""
        if self.damping != "auto":
            return self._solve(apply, rhs, start, float(self.damping))
        steps = 10 * rhs.shape[-1] if self.max_steps is None else self.max_steps
        return damped_if_indefinite(
            lambda b, damping: self._solve(apply, b, start, damping[..., None]),
            apply,
            rhs,
            rtol=self.rtol,
            steps=steps,
        )

    def _solve(
        self, apply: LinearMap, rhs: Tensor, start: Tensor | None, damping: float | Tensor
    ) -> Solution:
        product = Operator(apply, damping=damping)
        inverse = prepared(self.preconditioner, product, rhs)
        sweep: Sweep = partial(_sweep, inverse, self.check_every)
        if self.check_every == 1 and rhs.device.type == "cpu" and rhs.shape[:-1].numel() == 1:
            sweep = partial(sweep_single, inverse)
        return iterate(
            sweep,
            product,
            rhs,
            start,
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            check_every=self.check_every,
            damping=damping,
        )


def _sweep(
    inverse: LinearMap | None,
    check_every: int | None,
    product: LinearMap,
    run: Run,
    goal: Tensor,
    active: Tensor,
    budget: int,
) -> None:
    """Algorithm 2 from the current x, written for few operations a step: see Sweep."""
    x, r, began = run.x, run.residual, active
    # one value for each task against (*batch, n); a single task's broadcasts as it is
    each = _as_is if r.ndim == 1 else _columns
    nought, limit = r.new_zeros(()), goal.square()
    if inverse is None:
        z = r
    else:
        inverse, z = scaled(inverse, r)
    rho = dot(r, z)
    p = torch.where(each(active & (rho.abs() < torch.inf)), z, nought)
    unknown = nought
    fault = torch.ones_like(rho)
    for step in range(budget):
        ap = product(p)
        pap = dot(p, ap)
        ratio = pap / dot(p, p)  # 0/0 = NaN for tasks that have stopped, which fmin passes over
        run.curvature = torch.fmin(run.curvature, ratio)
        # rounding moves p'Ap / p'p by about eps |A|, and |A| is at least the first quotient
        margin = torch.minimum(ratio - unknown, rho)
        if step == 0:
            unknown = torch.finfo(ratio.dtype).eps * ratio
        fault = torch.where(active, margin, fault)
        active = active & (margin > 0)
        alpha = each(torch.where(active, rho / pap, nought))
        x.addcmul_(alpha, p)
        r.addcmul_(alpha, ap, value=-1)
        del ap  # before the next product, at which memory peaks
        run.steps += active
        square = dot(r, r)
        active = active > (square <= limit)  # active and not there yet
        if all_ended(active, step, check_every):
            break
        old = rho
        if inverse is None:
            z, rho = r, square
        else:
            z = inverse(r)
            rho = dot(r, z)
        beta = each(rho / old)
        # a z that is not finite must not reach x; an r of an active task is finite
        moves = active if inverse is None else active & (rho.abs() < torch.inf)
        p = torch.where(each(moves), torch.addcmul(z, beta, p), nought)
    run.end(began, active, fault, Status.INDEFINITE)


def _as_is(values: Tensor) -> Tensor:
    return values


def _columns(values: Tensor) -> Tensor:
    return values[..., None]
