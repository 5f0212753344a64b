"""Proximal gradient steps, accelerated (FISTA), and Newton steps on what is active."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Size, Tensor

from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.implicit.active import AT_KINKS, NonSmooth, is_non_smooth, smooth_gradient
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.automatic import chosen
from hypergrad.linear.cg import CG
from hypergrad.linear.lanczos import lanczos
from hypergrad.linear.operator import Operator
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import dot, norm
from hypergrad.lower.descent import Tolerance, choose
from hypergrad.lower.minimum import Minimum
from hypergrad.objective import Objective, evaluate
from hypergrad.settings import check_max_steps, check_step_size, check_tolerances
from hypergrad.tree import Phi, Theta, detach, flatten, leaves, like, unflatten

# Lanczos steps for the first guess of L, and what is added to it, since it is a guess from below.
_LANCZOS, _MORE = 6, 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximalGradient:
    """FISTA with restarts: ``phi <- prox(y - step d g/d phi(y))`` from extrapolated points y.

    For :class:`Constrained`, where prox is the projection, and :class:`Composite`. The start is
    projected first. Momentum is ``t_{k+1} = (1 + sqrt(1 + 4 t_k^2))/2`` (Beck and Teboulle 2009). A
    task starts over from t = 1 when its step went uphill (the gradient scheme of O'Donoghue and
    Candes 2015). A task stops when its proximal step is short enough for the least subgradient
    where it ends to meet the tolerance. Stores two iterates.

    Once the active set is found, what is left is smooth, and a Newton step on its manifold (that of
    the reduced objective, docs/theory.md, section 12) ends what proximal steps would take hundreds
    for. So now and then one is tried, and a task takes it where that halves its proximal step: as
    proximal steps never lengthen those of a convex problem, it converges wherever they do. While
    fewer than half of the tasks take it, the next is tried after twice as many steps; where all
    take it, after the next step.

    Without a step size each task's is ``1/L``: L is estimated by Lanczos's method at the start, and
    raised whenever two successive gradients differ by more than it allows. Where the curvature
    grows without bound (an exponential, say) give the step size.

    Attributes:
        rtol: tolerance on the least subgradient relative to ``|d g/d phi| + |H phi|`` at the start,
            see :class:`Tolerance`.
        atol: absolute tolerance on it. With both 0 exactly max_steps are taken.
        max_steps: at most this many steps.
        step_size: at most 1/L, L the largest curvature of g; None to estimate it.
        newton_after: proximal steps before the first Newton step; None for no such steps, as where
            there is no tolerance. None, with a step size, where g has no second derivative.
        solver: solver of the Newton steps' systems; None takes a dense one where that costs no more
            products than two for each proximal step taken, and as many steps of CG as half of those
            elsewhere.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 10_000
    step_size: float | None = None
    newton_after: int | None = 10
    solver: LinearSolver | None = None

    def __post_init__(self) -> None:
        check_tolerances("ProximalGradient", self.rtol, self.atol)
        check_max_steps("ProximalGradient", self.max_steps, least=0)
        if self.step_size is not None:
            limit = "at most 1/L, L the largest curvature of g"
            check_step_size("ProximalGradient", self.step_size, limit=limit)
        if self.newton_after is not None:
            name = "newton_after"
            check_max_steps("ProximalGradient", self.newton_after, least=1, name=name)

    def require(self, lower: object) -> None:
        """Raise for an objective that has nothing to project on.

        Raises:
            InputError: naming what was given.
        """
        if not is_non_smooth(lower):
            raise InputError(
                f"ProximalGradient minimises a Constrained or a Composite, and got a "
                f"{type(lower).__name__}; wrap it, as in Constrained(g, within=NonNegative()), or "
                "use LBFGS, Newton or Nesterov for a smooth objective."
            )

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Minimise each task's objective from the projection of ``phi``.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: the steps diverged.
        """
        self.require(lower)
        assert is_non_smooth(lower)
        theta, phi = detach(theta), detach(phi)
        batch = evaluate(lower, theta, phi).shape
        run = _Run(lower, theta, phi, batch)
        zero = leaves(phi)[0].new_zeros(batch, dtype=flatten(leaves(phi), batch).dtype)
        x = run.prox(leaves(phi), zero)
        tolerance = Tolerance(self.rtol, self.atol)
        goal = tolerance.goal(run.vector(x), lambda: run.vector([leaf / 2 for leaf in x]))
        bend = run.bend(x) if self.step_size is None else torch.full_like(zero, 1 / self.step_size)
        x, steps = self._walk(run, x, goal, bend) if self.max_steps else (x, 0)
        size, _ = run.mapping(x, bend)
        require_finite(size, "the proximal step where ProximalGradient ended", per_task=True)
        converged = tolerance.converged(size, goal)
        return Minimum(phi=like(phi, x), stationarity=size, converged=converged, steps=steps)

    def _walk(
        self, run: _Run, x: list[Tensor], goal: Tensor, bend: Tensor
    ) -> tuple[list[Tensor], int]:
        """The last iterate, and how many steps were taken."""
        y, t, active = x, torch.ones_like(goal), torch.ones_like(goal, dtype=torch.bool)
        known: tuple[Tensor, Tensor] | None = None
        tiny = torch.finfo(goal.dtype).eps ** 0.5
        wait = self.newton_after if self.rtol or self.atol else None
        steps, next_newton = 0, wait
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            slope = run.gradient(y)
            here, gradient = run.flat(y), run.flat(slope)
            if self.step_size is None:
                if known is not None:
                    apart = norm(here - known[0])
                    seen = norm(gradient - known[1]) / apart
                    # a step of rounding's length says nothing of the curvature
                    trusted = (apart > tiny * norm(here)) & seen.isfinite()
                    bend = torch.where(trusted, torch.maximum(bend, seen), bend)
                known = here, gradient
            new = run.step(y, slope, bend)
            z, old = run.flat(new), run.flat(x)
            # |subgradient at z| <= (L + 1/step) |y - z|
            short = 2 * bend * norm(here - z) <= goal
            uphill = dot(here - z, z - old) > 0
            grown = (1 + (1 + 4 * t.square()).sqrt()) / 2
            beta = torch.where(uphill, 0.0, (t - 1) / grown)
            ahead = [
                leaf + _spread(beta, leaf) * (leaf - before)
                for leaf, before in zip(new, x, strict=True)
            ]
            x, y = choose(active, new, x), choose(active, ahead, y)
            t = torch.where(uphill, 1.0, grown)
            active = active & ~short
            if wait is not None and steps == next_newton and bool(active.any()):
                there, size, closer = self._newton(run, x, bend, steps)
                closer = closer & active
                x, y = choose(closer, there, x), choose(closer, there, y)
                t = torch.where(closer, 1.0, t)
                taken, left = int(closer.sum()), int(active.sum())
                if 2 * taken < left:
                    wait = 2 * wait
                # where all took it, the active set is found: what is left is the system's residual
                next_newton = steps + (1 if taken == left else wait)
                active = active & ~(closer & (2 * size <= goal))
        return x, steps

    def _newton(
        self, run: _Run, x: list[Tensor], bend: Tensor, steps: int
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """A Newton step, then a proximal one; that one's size, and whether it is half of x's."""
        before, _ = run.mapping(x, bend)
        at = run.reduced(x)
        hessian = Operator(at.product)
        solver = self.solver
        if solver is None:
            # a product costs about two gradients, and those of a dense matrix are taken at once
            solver = chosen(hessian, at.gradient)
            if at.gradient.shape[-1] > 2 * steps or isinstance(solver, CG):
                solver = CG(max_steps=max(steps // 2, 1))
        moved = run.flat(x) - solver.solve(hessian, at.gradient).x
        # a number that is none is not half of anything
        size, there = run.mapping(run.prox(unflatten(moved, x), torch.zeros_like(bend)), bend)
        return there, size, size <= before / 2


class _Run:
    """The condition at one theta, as functions of phi's leaves."""

    def __init__(self, condition: NonSmooth, theta: object, phi: object, batch: Size) -> None:
        self._condition, self._theta, self._phi, self._batch = condition, theta, phi, batch

    def flat(self, points: list[Tensor]) -> Tensor:
        return flatten(points, self._batch)

    def gradient(self, points: list[Tensor]) -> list[Tensor]:
        return smooth_gradient(self._condition, self._theta, like(self._phi, points))

    def vector(self, points: list[Tensor]) -> Tensor:
        return self.flat(self.gradient(points))

    def prox(self, points: list[Tensor], step: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return leaves(self._condition.prox(self._theta, like(self._phi, points), step))

    def step(self, points: list[Tensor], slope: list[Tensor], bend: Tensor) -> list[Tensor]:
        """A proximal gradient step of length ``1/bend``."""
        length = 1 / bend
        moved = [
            point - _spread(length, point) * part for point, part in zip(points, slope, strict=True)
        ]
        return self.prox(moved, length)

    def reduced(self, points: list[Tensor]) -> Linearisation[object, object]:
        """The reduced objective, with products of its Hessian."""
        constant = [False] * len(leaves(self._theta))
        phi = like(self._phi, points)
        return Linearisation(self._condition, self._theta, phi, needed=constant, instead=AT_KINKS)

    def mapping(self, points: list[Tensor], bend: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``|x - step(x)| bend``, at most the length of the least subgradient at x; and step(x)."""
        after = self.step(points, self.gradient(points), bend)
        return bend * norm(self.flat(points) - self.flat(after)), after

    def bend(self, points: list[Tensor]) -> Tensor:
        """A guess of the largest curvature of the smooth part at a point, ``(*batch,)``."""
        phi = like(self._phi, points)
        at = Linearisation(self._condition.smooth, self._theta, phi, instead=AT_KINKS)
        if not at.gradient.shape[-1]:
            return torch.ones_like(at.values)
        draw = torch.Generator().manual_seed(0)  # any direction that no eigenvector is normal to
        start = torch.randn(at.gradient.shape[-1], generator=draw, dtype=torch.float64)
        start = start.to(at.gradient).expand_as(at.gradient)
        found = lanczos(at.product, start, steps=_LANCZOS)
        bend = _MORE * (found.largest.value + found.largest_error)
        # a g that is linear in phi may step as far as it likes: by phi's own length, or one
        length, size = norm(self.flat(points)), norm(at.gradient)
        linear = torch.where((length > 0) & (size > 0), size / length, 1.0)
        return torch.where(bend > 0, bend, linear)


def _spread(values: Tensor, leaf: Tensor) -> Tensor:
    """One value for each task, to be multiplied with a leaf ``(*batch, ...)`` of its dtype."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - values.ndim)).to(leaf.dtype)
