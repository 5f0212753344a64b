"""Damped Newton on the lower objective, for all tasks together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hypergrad.guards import require_finite
from hypergrad.implicit.curvature import Hessian, Point
from hypergrad.linear.cg import CG
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import dot, norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.line_search import Point as Place
from hypergrad.lower.line_search import Probe, backtrack
from hypergrad.lower.minimum import Minimum, require_fitting
from hypergrad.objective import Objective
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta, detach, flatten, leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Newton:
    """Newton steps ``H d = -d g/d phi`` with each task's own backtracking.

    With CG this is the line-search Newton-CG method (Nocedal and Wright 2006, algorithm 7.1):
    where the solve meets negative curvature its last iterate is the direction, or the gradient if
    that leaves none of descent, so that g never goes up whatever its shape. A task stops when
    its gradient meets the tolerance, or when neither g nor its gradient can be lowered in this
    precision: asking for ``rtol=0`` gives the minimiser to round-off, and a task that max_steps
    ended before that is not converged. Converged means stationary:
    a task that starts on a saddle stays there (the adjoint's certificate shows its curvature).

    Attributes:
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`.
        atol: absolute tolerance on it.
        max_steps: at most this many steps.
        solver: solves for the direction; a loose CG makes this an inexact Newton method.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 50
    solver: LinearSolver = field(default_factory=lambda: CG(rtol=1e-3))

    def __post_init__(self) -> None:
        check_tolerances("Newton", self.rtol, self.atol)
        check_max_steps("Newton", self.max_steps, least=1)

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Minimise each task's objective from ``phi``.

        Raises:
            InputError: the objective can't be used.
            NotFiniteError: g or its gradient is NaN or infinite at an accepted point.
        """
        require_fitting(self, lower)
        theta, phi = detach(theta), detach(phi)
        probe = Probe(lower, theta, phi)
        constant = [False] * len(leaves(theta))
        point = Hessian().linearise(lower, theta, phi, needed=constant)
        x, size, scale = flatten(leaves(phi), point.batch), norm(point.gradient), point.values.abs()
        tolerance = Tolerance(self.rtol, self.atol)
        goal = tolerance.goal(point.gradient, lambda: probe.at(x / 2).gradient)
        active = size > goal
        steps = 0
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            here = Place(x=x, values=point.values, gradient=point.gradient)
            length, there = backtrack(probe, here, self._direction(point), active, scale)
            # Neither g nor its gradient went down: round-off is reached, the task stays as it was.
            slack = 4 * torch.finfo(size.dtype).eps * here.values.abs()
            lost = (there.values >= here.values - slack) & (norm(there.gradient) >= size)
            stuck = active & ((length == 0) | lost)
            x = here.where(stuck, there).x
            point = Hessian().linearise(lower, theta, probe.tree(x), needed=constant)
            size, scale = norm(point.gradient), torch.maximum(scale, point.values.abs())
            active = active & ~stuck & (size > goal)
        require_finite(size, "the gradient where Newton ended", per_task=True)
        # without a tolerance, round-off is the goal
        converged = tolerance.converged(size, goal) if tolerance else ~active
        return Minimum(phi=probe.tree(x), stationarity=size, converged=converged, steps=steps)

    def _direction(self, point: Point) -> Tensor:
        """Newton's direction, or the steepest where that does not descend; ``(*batch, n)``."""
        newton = -self.solver.solve(point.hessian, point.gradient).x
        descends = dot(point.gradient, newton) < 0  # False for NaN too
        return torch.where(descends[..., None], newton, -point.gradient)
