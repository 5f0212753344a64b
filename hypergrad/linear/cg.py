"""Conjugate gradients for a batch of symmetric positive definite systems."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.solution import (
    Counted,
    LinearMap,
    Solution,
    Status,
    dot,
    norm,
    scale_of,
)

# The recursive residual r and the true one, b - A x, agree while |r_true - r| is well below
# |r_true|; past this share the recurrence no longer describes x (theory.md section 6, rule b).
_TRUST = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class CG:
    """Conjugate gradients (Hestenes and Stiefel 1952); the paper's Algorithm 2.

    A task stops at ``|b - A x| <= max(rtol |b|, atol)``, at ``max_steps``, or at a direction of
    non-positive curvature; tasks that stopped keep their last iterate while others go on. When
    the recurrence claims convergence that the recomputed residual denies, CG restarts from where
    it is, as long as that helps. After N steps from zero the error in the norm of A is at most
    ``2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^N`` of the solution's (Chebyshev; theory.md 0).

    Attributes:
        rtol: relative tolerance on the residual; 0 asks for ``max_steps`` steps (a task still
            stops once its recurrence is below the precision of b, where no step changes x).
        atol: absolute tolerance on the residual's norm.
        max_steps: at most this many steps; None means 10 n.
        preconditioner: a product with an approximate inverse of A, symmetric positive definite.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    preconditioner: LinearMap | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.rtol < 1 and self.atol >= 0):
            raise InputError(
                f"CG got rtol={self.rtol}, atol={self.atol}; rtol must be in [0, 1), atol >= 0."
            )
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"CG got max_steps={self.max_steps}; it must be at least 1, or None.")
        if self.rtol == 0 and self.atol == 0 and self.max_steps is None:
            raise InputError(
                "CG got no tolerance and no max_steps: it would not know when to stop."
            )

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; see :class:`LinearSolver`."""
        product = Counted(apply)
        budget = 10 * rhs.shape[-1] if self.max_steps is None else self.max_steps
        scale = scale_of(rhs)
        b = rhs / scale
        size = norm(b)
        floor = torch.finfo(rhs.dtype).eps * size
        goal = torch.maximum(self.rtol * size, self.atol / scale[..., 0]).maximum(floor)

        run = _Run.begin(b, None if start is None else start / scale, product)
        previous = torch.full_like(size, torch.inf)
        again = norm(run.residual) > goal
        while budget > 0 and bool(again.any()):
            budget -= run.sweep(product, self.preconditioner, goal, again, budget)
            recurrence = run.residual
            run.residual = b - product(run.x)
            true = norm(run.residual)
            parted = norm(run.residual - recurrence) > _TRUST * true
            again = ~run.halted & (true > goal) & parted & (true < 0.5 * previous)
            previous = true

        # A residual that the recurrence and the recomputation agree on to _TRUST may be that much
        # above the goal and still be the one that was asked for.
        true = norm(run.residual)
        status = torch.full_like(run.steps, Status.OUT_OF_STEPS)
        status[run.stopped] = Status.STAGNATED
        status[true * (1 - _TRUST) <= goal] = Status.CONVERGED
        status[run.halted] = Status.INDEFINITE
        status[run.broken | ~true.isfinite()] = Status.NOT_FINITE
        return Solution(
            x=run.x * scale,
            status=status,
            residual=true / torch.where(size > 0, size, 1.0),
            curvature=run.curvature,
            steps=run.steps,
            matvecs=product.matvecs,
        )


@dataclass(slots=True)
class _Run:
    """The state of one solve; ``sweep`` is Algorithm 2 from the current x."""

    x: Tensor  # (*batch, n) iterate
    residual: Tensor  # (*batch, n) b - A x, true between sweeps, recursive within
    curvature: Tensor  # (*batch,) least p'Ap / p'p
    steps: Tensor  # (*batch,)
    stopped: Tensor  # (*batch,) met its goal by the recurrence
    halted: Tensor  # (*batch,) met p'Ap <= 0, or a preconditioner with r'z <= 0
    broken: Tensor  # (*batch,) met a product that is not finite

    @classmethod
    def begin(cls, b: Tensor, start: Tensor | None, product: LinearMap) -> _Run:
        zero = (b == 0).all(dim=-1, keepdim=True)
        x = torch.zeros_like(b) if start is None else torch.where(zero, 0.0, start)
        none = torch.zeros_like(zero[..., 0])
        return cls(
            x=x,
            residual=b.clone() if start is None else b - product(x),
            curvature=torch.full_like(b[..., 0], torch.inf),
            steps=torch.zeros_like(none, dtype=torch.int64),
            stopped=none,
            halted=none,
            broken=none,
        )

    def sweep(
        self,
        product: LinearMap,
        preconditioner: LinearMap | None,
        goal: Tensor,
        active: Tensor,
        budget: int,
    ) -> int:
        """Take at most ``budget`` steps for the tasks in ``active``; returns how many were taken.

        A task that stops gets a zero direction, so that its x stays and its products stay finite.
        """
        x, r = self.x, self.residual
        z = r if preconditioner is None else preconditioner(r)
        rho = dot(r, z)
        p = torch.where(active[..., None], z, 0.0)
        self.stopped = self.stopped & ~active
        for step in range(budget):
            ap = product(p)
            pap = dot(p, ap)
            finite = pap.isfinite() & rho.isfinite()
            self.broken = self.broken | (active & ~finite)
            self.halted = self.halted | (active & finite & ((pap <= 0) | (rho <= 0)))
            ratio = torch.where(active & finite, pap / dot(p, p), torch.inf)
            self.curvature = torch.minimum(self.curvature, ratio)
            active = active & ~self.broken & ~self.halted
            alpha = torch.where(active, rho / torch.where(active, pap, 1.0), 0.0)[..., None]
            x = x + alpha * p
            r = torch.where(active[..., None], r - alpha * ap, r)
            self.steps = self.steps + active
            done = active & (norm(r) <= goal)
            self.stopped = self.stopped | done
            active = active & ~done
            self.x, self.residual = x, r
            if not bool(active.any()):
                return step + 1
            z = r if preconditioner is None else preconditioner(r)
            rho, old = dot(r, z), rho
            beta = torch.where(active, rho / torch.where(active, old, 1.0), 0.0)[..., None]
            p = torch.where(active[..., None], z + beta * p, 0.0)
        return budget
