"""Limited-memory BFGS on the lower objective: every task its own, all together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.linear.vectors import dot, norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.line_search import Point, Probe, backtrack
from hypergrad.lower.minimum import Minimum, require_fitting
from hypergrad.objective import Objective
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta

# Least cosine between a step and its change of gradient for the pair to be kept. A quadratic's is
# above 2/sqrt(kappa), so that no pair of a problem that this precision can solve is refused.
_COSINE = 1e-8
# Steps that may lower neither g nor the gradient before round-off is taken to be reached.
_PATIENCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LBFGS:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.5): first derivatives only.

    Each task has its own pairs, its own scale and its own backtracking, which
    ``torch.optim.LBFGS`` on the sum of all tasks would share among them. Pairs without positive
    curvature, met where the objective is not convex, are left out. A task stops when its gradient
    meets the tolerance, or when its line search fails along the gradient itself or ten steps have
    lowered neither g nor the gradient: round-off is reached. ``rtol=0`` asks for that, and a task
    that max_steps ended before it is not converged. Stores ``2 history`` vectors.

    Attributes:
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`.
        atol: absolute tolerance on it.
        max_steps: at most this many steps.
        history: number of pairs that are kept.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 200
    history: int = 10

    def __post_init__(self) -> None:
        check_tolerances("LBFGS", self.rtol, self.atol)
        check_max_steps("LBFGS", self.max_steps, least=0)
        if self.history < 1:
            raise InputError(f"LBFGS got history={self.history}; it needs history >= 1.")

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Minimise each task's objective from ``phi``.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: g or its gradient is NaN or infinite at an accepted point.
        """
        require_fitting(self, lower)
        probe = Probe(lower, theta, phi)
        here = probe.start()
        require_finite(here.gradient, "the gradient where L-BFGS began", per_task=False)
        pairs = _Pairs.none(self.history, here.x)
        size = best = norm(here.gradient)
        tolerance = Tolerance(self.rtol, self.atol)
        goal = tolerance.goal(here.gradient, lambda: probe.at(here.x / 2).gradient)
        scale, idle = here.values.abs(), torch.zeros_like(size)
        active, steps = size > goal, 0
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            direction = -pairs.inverse(here.gradient)
            wrong = ~(dot(here.gradient, direction) < 0)  # rounding, or a product overflowed
            pairs = pairs.without(wrong)
            steepest = -here.gradient / torch.where(size > 0, size, 1.0)[..., None]
            direction = torch.where((wrong | pairs.empty)[..., None], steepest, direction)
            length, there = backtrack(probe, here, direction, active, scale)
            failed = active & (length == 0)
            stuck = failed & pairs.empty
            pairs = pairs.and_(there.x - here.x, there.gradient - here.gradient).without(failed)
            idle = torch.where(_lower(there, here) | (norm(there.gradient) < best), 0.0, idle + 1)
            here, size = there, norm(there.gradient)
            best, scale = torch.minimum(best, size), torch.maximum(scale, here.values.abs())
            active = active & ~stuck & (size > goal) & (idle < _PATIENCE)
        require_finite(size, "the gradient where L-BFGS ended", per_task=True)
        converged = size <= goal if tolerance else ~active  # without one, round-off is the goal
        return Minimum(phi=probe.tree(here.x), stationarity=size, converged=converged, steps=steps)


def _lower(there: Point, here: Point) -> Tensor:
    """True where g went down by more than its rounding."""
    slack = 4 * torch.finfo(here.values.dtype).eps * here.values.abs()
    return there.values < here.values - slack


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Steps s and changes of gradient y, the newest last; weight 0 where a task has none."""

    steps: Float[Tensor, "history *batch n"]
    changes: Float[Tensor, "history *batch n"]
    weights: Float[Tensor, "history *batch"]  # 1 / s'y

    @classmethod
    def none(cls, history: int, x: Tensor) -> _Pairs:
        zero = x.new_zeros(history, *x.shape)
        return cls(zero, zero, zero[..., 0] if x.shape[-1] else x.new_zeros(history, *x.shape[:-1]))

    @property
    def empty(self) -> Tensor:
        """True where a task has no pair."""
        return self.weights[-1] == 0

    def and_(self, step: Tensor, change: Tensor) -> _Pairs:
        """With one pair more, for the tasks in which it has positive curvature."""
        curvature = dot(step, change)
        good = curvature > _COSINE * norm(step) * norm(change)  # False for a step of zero, and NaN

        def shifted(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
            return torch.where(mask, torch.cat([old[1:], new[None]]), old)

        return _Pairs(
            steps=shifted(self.steps, step, good[..., None]),
            changes=shifted(self.changes, change, good[..., None]),
            weights=shifted(self.weights, 1 / torch.where(good, curvature, 1.0), good),
        )

    def without(self, mask: Tensor) -> _Pairs:
        """With no pair for the tasks in ``mask``."""
        return _Pairs(self.steps, self.changes, torch.where(mask, 0.0, self.weights))

    def inverse(self, gradient: Tensor) -> Tensor:
        """The product with the approximate inverse Hessian (algorithm 7.4, two loops)."""
        q, alphas = gradient, list[Tensor]()
        for s, y, weight in reversed([*zip(self.steps, self.changes, self.weights, strict=True)]):
            alphas.append(weight * dot(s, q))
            q = q - alphas[-1][..., None] * y
        last = self.changes[-1]
        square = dot(last * self.weights[-1][..., None], last)  # y'y / s'y; y'y might underflow
        r = q / torch.where(square > 0, square, 1.0)[..., None]
        for s, y, weight in zip(self.steps, self.changes, self.weights, strict=True):
            r = r + (alphas.pop() - weight * dot(y, r))[..., None] * s
        return r
