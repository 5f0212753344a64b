"""Upper steps on the user's own problem, each with the lower level solved to round-off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.problem import LONG, exact_solver, flat
from hypergrad.errors import NotFiniteError
from hypergrad.implicit.pullback import hypergradient
from hypergrad.objective import Bilevel
from hypergrad.tree import detach, leaves, like

# Without a step size of the user's, the first upper step moves theta by this share of its size.
SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One upper iterate, and what a long solve finds there.

    Attributes:
        theta: the upper variable.
        start: phi0, from which the lower level is solved.
        phi: the minimiser to round-off, a tree like phi0.
        v: ``(*batch, n)`` the adjoint there; zero where H is not positive definite.
        grad: ``(p,)`` the reference hypergradient.
        value: mean of the upper objective over the tasks.
        stationarity: the worst task's ``|d g/d phi|`` at phi.
    """

    theta: Any
    start: Any
    phi: Any
    v: Tensor
    grad: Tensor
    value: float
    stationarity: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The visits, and why there are no more of them.

    Attributes:
        visits: in order; the first is the user's theta.
        step_size: upper step size, eta.
        broken: reason if the trajectory ended early; else empty.
    """

    visits: tuple[Visit, ...]
    step_size: float
    broken: str

    @property
    def scale(self) -> float:
        """The largest hypergradient of the run, which errors are relative to; 1 if all are zero."""
        return max((float(visit.grad.norm()) for visit in self.visits), default=0.0) or 1.0


def travel(
    bilevel: Bilevel[Any, Any],
    theta: Any,
    phi0: Any,
    *,
    steps: int,
    step_size: float | None,
    size_limit: int = 200,
) -> Trajectory:
    """Take upper steps of gradient descent; each lower solve is cold, from phi0.

    Args:
        bilevel: f and g.
        theta: start of the trajectory.
        phi0: the start of every lower solve.
        steps: number of upper steps.
        step_size: eta; None takes one that first moves theta by a tenth of its size (or of 1).
        size_limit: adjoint systems are solved densely up to this many unknowns of a task.
    """
    visits: list[Visit] = []
    broken = ""
    try:
        for visit in _iterates(bilevel, detach(theta), detach(phi0), steps, step_size, size_limit):
            visits.append(visit)
    except NotFiniteError as error:
        broken = str(error)
    eta = step_size or (_step_size(visits[0]) if visits else 0.0)
    return Trajectory(tuple(visits), eta, broken)


def _iterates(
    bilevel: Bilevel[Any, Any],
    theta: Any,
    phi0: Any,
    steps: int,
    step_size: float | None,
    size_limit: int,
) -> Iterator[Visit]:
    for _ in range(steps + 1):
        visit = solve(bilevel, theta, phi0, size_limit)
        yield visit
        step_size = step_size or _step_size(visit)
        sizes = [leaf.numel() for leaf in leaves(theta)]
        parts = zip(leaves(theta), visit.grad.split(sizes), strict=True)
        theta = like(theta, [leaf - step_size * part.view_as(leaf) for leaf, part in parts])


def solve(bilevel: Bilevel[Any, Any], theta: Any, phi0: Any, size_limit: int = 200) -> Visit:
    """The long reference solve: Newton's method as far as the precision goes, then the adjoint.

    Raises:
        InputError: the objectives can't be used.
        NotFiniteError: a value or a derivative is not finite.
    """
    found = LONG.minimise(bilevel.lower, theta, phi0)
    unknowns = flat(phi0).numel() // max(1, found.stationarity.numel())
    solver = exact_solver(unknowns, torch.finfo(leaves(phi0)[0].dtype).eps, size_limit)
    answer = hypergradient(bilevel, theta, found.phi, solver=solver)
    return Visit(
        theta=theta,
        start=phi0,
        phi=found.phi,
        v=answer.certificate.adjoint.x,
        grad=flat(answer.grad),
        value=float(answer.value),
        stationarity=float(found.stationarity.max()),
    )


def _step_size(first: Visit) -> float:
    size = float(flat(first.theta).norm())
    return SHARE * (size or 1.0) / (float(first.grad.norm()) or 1.0)
