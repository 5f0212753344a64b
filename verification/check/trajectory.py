"""Upper steps on the user's own problem, each with the lower level solved to round-off."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad import CG, Bilevel, Cholesky, LinearSolver, Newton, hypergradient
from hypergrad.checks.answer import flat
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.tree import detach, leaves, like

# Up to this many unknowns of a task, adjoint systems are solved densely.
DENSE = 200
# Without a step size of the user's, the first upper step moves theta by this share of its size.
SHARE = 0.1


@dataclass(frozen=True)
class Visit:
    """One upper iterate, and what a long solve finds there.

    Attributes:
        theta: the upper variable.
        start: phi0, from which the lower level is solved.
        phi: the minimiser to round-off, a tree like phi0.
        v: ``(*batch, n)`` the adjoint there; zero where H is not positive definite.
        grad: ``(p,)`` the reference hypergradient.
        value: of the upper objective's mean.
        stationarity: the worst task's ``|d g/d phi|`` at phi.
    """

    theta: Any
    start: Any
    phi: Any
    v: Tensor
    grad: Tensor
    value: float
    stationarity: float


@dataclass(frozen=True)
class Trajectory:
    """The visits, and why there are no more of them.

    Attributes:
        visits: in order; the first is the user's theta.
        step_size: of the upper level, eta.
        broken: what ended the trajectory early; empty if nothing did.
    """

    visits: tuple[Visit, ...]
    step_size: float
    broken: str

    @property
    def scale(self) -> float:
        """The largest hypergradient met: what errors are relative to; 1 if all are zero."""
        return max((float(visit.grad.norm()) for visit in self.visits), default=0.0) or 1.0


def travel(
    problem: Bilevel[Any, Any], theta: Any, phi0: Any, *, steps: int, step_size: float | None
) -> Trajectory:
    """Take upper steps of gradient descent; each lower solve is cold, from phi0.

    Args:
        problem: f and g.
        theta: where to begin.
        phi0: the start of every lower solve.
        steps: how many upper steps.
        step_size: eta; None takes one that first moves theta by a tenth of its size (or of 1).

    Raises:
        InputError: a number makes no sense, or the objectives can't be used.
    """
    if steps < 1 or (step_size is not None and not step_size > 0):
        raise InputError(
            f"got upper_steps={steps}, upper_step_size={step_size}; give at least one step, of a "
            "positive size."
        )
    visits: list[Visit] = []
    broken = ""
    try:
        for visit in _iterates(problem, detach(theta), detach(phi0), steps, step_size):
            visits.append(visit)
    except NotFiniteError as error:
        broken = str(error)
    eta = step_size or (_step_size(visits[0]) if visits else 0.0)
    return Trajectory(tuple(visits), eta, broken)


def _iterates(
    problem: Bilevel[Any, Any], theta: Any, phi0: Any, steps: int, step_size: float | None
) -> Iterator[Visit]:
    for _ in range(steps + 1):
        visit = solve(problem, theta, phi0)
        yield visit
        step_size = step_size or _step_size(visit)
        moved, begin = [], 0
        for leaf in leaves(theta):
            part = visit.grad[begin : begin + leaf.numel()].reshape(leaf.shape)
            moved.append(leaf - step_size * part)
            begin += leaf.numel()
        theta = like(theta, moved)


def solve(problem: Bilevel[Any, Any], theta: Any, phi0: Any) -> Visit:
    """The long reference solve: Newton's method as far as the precision goes, then the adjoint.

    Raises:
        InputError: the objectives can't be used.
        NotFiniteError: a value or a derivative is not finite.
    """
    # negative curvature, where there is some, is met by CG's directions and never goes uphill
    found = Newton(rtol=0.0, max_steps=200, solver=CG(rtol=1e-3)).minimise(
        problem.lower, theta, phi0
    )
    answer = hypergradient(problem, theta, found.phi, solver=reference_solver(phi0, found))
    return Visit(
        theta=theta,
        start=phi0,
        phi=found.phi,
        v=answer.certificate.adjoint.x,
        grad=flat(answer.grad),
        value=float(answer.value),
        stationarity=float(found.stationarity.max()),
    )


def reference_solver(phi: Any, found: Any) -> LinearSolver:
    """Dense where a task is small; else conjugate gradients to half of the digits."""
    tasks = max(1, found.stationarity.numel())
    if sum(leaf.numel() for leaf in leaves(phi)) // tasks <= DENSE:
        return Cholesky()
    return CG(rtol=torch.finfo(leaves(phi)[0].dtype).eps ** 0.5)


def _step_size(first: Visit) -> float:
    size = float(flat(first.theta).norm())
    return SHARE * (size or 1.0) / (float(first.grad.norm()) or 1.0)
