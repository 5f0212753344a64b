"""The truncated Neumann series: a fixed number of Richardson steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.operator import Kind, LinearMap, Operator
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import dot, norm, scale_of
from hypergrad.settings import check_max_steps, check_step_size, check_tolerances


@dataclass(frozen=True, slots=True, kw_only=True)
class Neumann:
    """``x = s (I + (I - s A) + ... + (I - s A)^(N - 1)) b``, s the step size, N the steps.

    The same as N steps of ``x <- x + s (b - A x)`` from zero (or from ``start``), and what
    truncated back-propagation through gradient descent computes at its fixed point. With
    ``s <= 1/L`` the residual shrinks by ``1 - 1/kappa`` a step: slower than CG, but linear in b,
    with no inner product and no division. For a fixed point's system, ``A = I - dT/dphi'``, s = 1
    sums ``sum_j (dT/dphi')^j b``, which converges where T contracts near it. Takes N products, the
    last of which gives the residual.

    Attributes:
        step_size: s, below 2/L, or the series diverges (reported, not raised).
        max_steps: N, the number of terms of the series.
        rtol: tolerance on the recomputed residual relative to ``|b|``, for the status; 0 for none.
        atol: absolute tolerance on it; 0 for none.
    """

    step_size: float
    max_steps: int
    rtol: float = 1e-6
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_step_size("Neumann", self.step_size, limit="below 2/L")
        check_max_steps("Neumann", self.max_steps, least=1)
        check_tolerances("Neumann", self.rtol, self.atol)

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Sum the series for each task."""
        product = Operator(apply)
        scale = scale_of(rhs)
        b = rhs / scale
        size = norm(b)
        x = torch.zeros_like(b) if start is None else start / scale
        residual = b if start is None else b - product(x)
        del b  # before a product, at which memory peaks
        curvature = torch.full_like(size, torch.inf)
        # below this the residual's direction, and so its curvature, is rounding
        floor = torch.finfo(rhs.dtype).eps * size
        for step in range(self.max_steps):
            # a task that met negative curvature would diverge: it stays where that was found
            residual = torch.where((curvature > 0)[..., None], residual, 0.0)
            x.add_(residual, alpha=self.step_size)
            if step == self.max_steps - 1:
                break  # the next residual is the one recomputed below
            image = product(residual)
            length = norm(residual)
            known = length > floor
            ratio = dot(residual, image) / torch.where(known, length, 1.0).square()
            if product.kind is not Kind.GENERAL:  # of another matrix p'Ap proves nothing
                curvature = torch.where(known, torch.minimum(curvature, ratio), curvature)
            residual = residual.sub(image, alpha=self.step_size)
            del image  # before the next product, at which memory peaks
        del residual
        true = norm(rhs / scale - product.exact(x))
        relative = true / torch.where(size > 0, size, 1.0)
        goal = (self.rtol * size).maximum(self.atol / scale[..., 0])
        status = torch.full_like(relative, Status.OUT_OF_STEPS, dtype=torch.int64)
        status[true <= goal] = Status.CONVERGED
        status[curvature <= 0] = Status.INDEFINITE
        status[~relative.isfinite()] = Status.NOT_FINITE
        return Solution(
            x=product.scaled(x, scale),
            status=status,
            residual=relative,
            curvature=curvature,
            steps=torch.full_like(status, self.max_steps),
            matvecs=product.matvecs,
        )
