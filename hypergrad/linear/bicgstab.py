"""Stabilised biconjugate gradients for a batch of systems of any matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.krylov import Run, all_ended, check_stopping, iterate
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.preconditioners import Preconditioner, prepared
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import dot, norm


@dataclass(frozen=True, slots=True, kw_only=True)
class BiCGStab:
    """Biconjugate gradients with a minimal residual step each (van der Vorst 1992).

    For any A, with seven vectors whatever the number of steps, where GMRES keeps one for each. In
    exchange nothing is minimised over the space: the residual may rise on its way, and no bound is
    known. A step costs two products. Where a step breaks down the task starts anew from its x;
    where it breaks down at once (a skew-symmetric A, say) it is STAGNATED, and GMRES is the solver
    to use. Stopping, verifying and sweeping again are CG's.

    Attributes:
        rtol: relative tolerance on the residual; 0 asks for ``max_steps`` steps.
        atol: absolute tolerance on the residual's norm.
        max_steps: at most this many steps; None means 10 n.
        preconditioner: see :class:`GMRES`.
        check_every: steps between two looks for stopped tasks; None: the default of CG.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    preconditioner: Preconditioner | LinearMap | None = None
    check_every: int | None = 1

    def __post_init__(self) -> None:
        check_stopping("BiCGStab", self.rtol, self.atol, self.max_steps, self.check_every)

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; see :class:`LinearSolver`."""
        product = Operator(apply)
        inverse = prepared(self.preconditioner, product, rhs)
        return iterate(
            lambda *sweep: _sweep(inverse, self.check_every, *sweep),
            product,
            rhs,
            start,
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            check_every=self.check_every,
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
    """Letters as in van der Vorst 1992; see Sweep."""

    def applied(vector: Tensor) -> tuple[Tensor, Tensor]:
        vector = vector if inverse is None else inverse(vector)
        return vector, product(vector)

    began, nought, one = active, goal.new_zeros(()), goal.new_ones(())
    r = run.residual
    shadow, p, v = r.clone(), torch.zeros_like(r), torch.zeros_like(r)
    rho = alpha = omega = torch.ones_like(goal)
    fresh, fault = torch.ones_like(active), torch.ones_like(goal)
    negligible = 10 * torch.finfo(goal.dtype).eps
    for step in range(budget):
        rho, old = dot(shadow, r), rho
        # r nearly orthogonal to its shadow, or no step along s: start anew from here
        fresh = fresh | ~(rho.abs() > negligible * norm(shadow) * norm(r)) | (omega == 0)
        shadow = torch.where(fresh[..., None], r, shadow)
        rho = torch.where(fresh, dot(r, r), rho)
        beta = torch.where(fresh, nought, (rho / old) * (alpha / torch.where(fresh, one, omega)))
        p = r + beta[..., None] * (p - omega[..., None] * v)
        p = torch.where(active[..., None], p, nought)
        moved, v = applied(p)
        curved = dot(shadow, v)
        known = curved.abs() > negligible * norm(shadow) * norm(v)
        # a first step that breaks down would be followed by its like; NaN stays NaN
        margin = torch.where(known, one, torch.where(fresh, -one, one)) + nought * curved
        fault = torch.where(active, margin, fault)
        active = active & (margin > 0)
        go = active & known
        alpha = torch.where(go, rho / torch.where(known, curved, one), nought)
        s = r - alpha[..., None] * v
        along, t = applied(torch.where(go[..., None], s, nought))
        square, turn = dot(t, t), dot(t, s)
        steps = go & (turn.abs() > negligible * norm(t) * norm(s))
        omega = torch.where(steps, turn / torch.where(steps, square, one), nought)
        bad = go & ~(square + turn).isfinite()
        fault = torch.where(bad, torch.nan, fault)
        active, go = active & ~bad, go & ~bad
        change = alpha[..., None] * moved + omega[..., None] * along
        run.x += torch.where(go[..., None], change, nought)
        r = torch.where(go[..., None], s - omega[..., None] * t, r)
        run.steps += active
        fresh = ~known
        active = active > (norm(r) <= goal)  # active and not there yet
        if all_ended(active, step, check_every):
            break
    run.residual = r
    run.end(began, active, fault, Status.STAGNATED)
