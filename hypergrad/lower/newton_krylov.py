"""Newton's method on an equation, each linear system by a solver for any matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad.equation import Equation, Saddle
from hypergrad.implicit.attach import require_solver
from hypergrad.implicit.saddle import Jacobian
from hypergrad.linear.automatic import chosen
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import dot, norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.minimum import Minimum
from hypergrad.lower.residual import Residual, backtracked, goal_of
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonKrylov:
    """Steps ``A d = -F`` with ``A = dF/dphi`` and each task's own backtracking on ``|F|``.

    Quadratic near a root whose A is regular. Where a solve leaves no direction in which ``|F|``
    falls (A is singular, say), the steepest one is taken, so that ``|F|`` never rises; it may end
    at a local minimum of ``|F|`` that is no root, which is then not converged.

    Attributes:
        rtol: tolerance on ``|F|`` relative to the size of its terms at the start, see
            :class:`Tolerance`; 0 asks for round-off: where ``|F|`` falls no more.
        atol: absolute tolerance on it.
        max_steps: at most this many steps.
        solver: solves for d; None chooses by size. A loose GMRES makes this an inexact method.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 50
    solver: LinearSolver | None = None

    def __post_init__(self) -> None:
        check_tolerances("NewtonKrylov", self.rtol, self.atol)
        check_max_steps("NewtonKrylov", self.max_steps, least=1)

    def find(self, equation: Equation[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Find each task's root from ``phi``.

        Raises:
            InputError: the equation or the linear solver can't be used.
            NotFiniteError: F or a product is NaN or infinite at an accepted point.
        """
        require_solver(self.solver, Saddle(equation))
        residual, tolerance = Residual(equation, theta, phi), Tolerance(self.rtol, self.atol)
        x, f, size = residual.x, residual.f, norm(residual.f)
        goal = goal_of(tolerance, residual)
        active, steps = size > goal, 0
        while steps < self.max_steps and bool(active.any()):
            steps += 1
            direction = self._direction(residual.linearised(x))
            x, f, stepped = backtracked(residual, x, f, direction, active)
            size = norm(f)
            active = active & stepped & (size > goal)
        converged = tolerance.converged(size, goal) if tolerance else ~active
        return residual.ended(self, x, size, converged, steps)

    def _direction(self, at: Jacobian) -> Tensor:
        """Newton's direction, or the steepest where ``|F|`` does not fall along it."""
        halves, f = at.operators(), at.residual
        solver = chosen(halves.forward, f) if self.solver is None else self.solver
        newton = -solver.solve(halves.forward, f).x
        falls = dot(f, at.forward(newton)) < 0  # False for NaN too
        if bool(falls.all()):
            return newton
        slope = at.transposed(f)
        image = norm(at.forward(slope))
        # to the least of the linear model's |F| along it
        length = (norm(slope) / torch.where(image > 0, image, 1.0)).square()
        return torch.where(falls[..., None], newton, -length[..., None] * slope)
