"""Ways to differentiate a minimiser: the paper's method and its rivals, as one argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast, runtime_checkable

from hypergrad.equality import by_value
from hypergrad.equation import Equation, stated
from hypergrad.errors import InputError
from hypergrad.graph import custom_functions, refuse_error_node
from hypergrad.guards import noting
from hypergrad.implicit.attach import attached
from hypergrad.implicit.certificate import Certificate
from hypergrad.implicit.curvature import Curvature, Hessian
from hypergrad.implicit.derivatives import Problem
from hypergrad.implicit.nodes import constant_node
from hypergrad.implicit.watch import Watch
from hypergrad.linear.neumann import Neumann
from hypergrad.linear.solution import LinearSolver
from hypergrad.lower.descent import choose, refuse_captured_step
from hypergrad.lower.minimum import LowerSolver, Memory, RootSolver, Unrollable
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta, Tree, detach, leaves, like, names

Condition: TypeAlias = Objective[Theta, Phi] | Equation[Theta, Phi]
"""Definition of phi: an objective that phi minimises, or an equation that phi solves."""
Solver: TypeAlias = LowerSolver | RootSolver
"""Solver of the lower level: it finds phi."""


@runtime_checkable
class Adjoint(Protocol):
    """A way to solve the lower level so that the result has a derivative in theta."""

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """Minimise ``lower(theta, .)`` from ``phi`` by ``by``; the result carries its graph."""
        ...


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class Implicit:
    """Differentiate the stationarity condition at the end; memory O(1) in K.

    With ``by=GradientDescent`` and ``solver=CG`` this is the paper's Algorithm 1. The error is
    bounded by the two residuals in the certificate (theory.md, Theorem B).

    Attributes:
        solver: solves the adjoint system; None chooses by size and structure.
        curvature: second derivatives that the adjoint uses.
        start: a first guess of v, a tree like phi; see :func:`attach`.
    """

    solver: LinearSolver | None = None
    curvature: Curvature = field(default_factory=Hessian, kw_only=True)
    start: Tree | None = field(default=None, kw_only=True)

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`."""
        refuse_start_with_grad(phi, self)
        return attached(
            lower,
            theta,
            phi,
            solver=self.solver,
            curvature=self.curvature,
            watch=watch,
            start=cast(Phi | None, self.start),  # the node compares its structure with phi's
            by=by,
        )


@dataclass(frozen=True, slots=True)
class Unrolled:
    """Differentiate through all K lower steps (ITD-BiO, ANIL, MAML); memory O(K).

    Exact for the K-step iterate, in theta and in the start; as far from the minimiser's
    derivative as ``(1 - step_size mu)^K`` times K leaves it. K is each task's own number of steps
    where ``by`` has a tolerance, one at least. Can be differentiated to any order.
    """

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`; ``by`` must have differentiable steps."""
        solver, objective = unrollable(by, lower, self)
        memory: Memory = ()
        for index in range(solver.max_steps):
            start = phi
            phi, memory = solver.step(objective, theta, phi, memory)
            if index == 0:
                require_second_derivatives(phi, theta, start)
        return phi


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """Differentiate through the last ``steps`` lower steps only (Shaban et al. 2019).

    Memory O(steps); the neglected tail is of size ``(1 - step_size mu)^steps``. If ``by`` has a
    tolerance, these are each task's own last steps before it met it: the steps are taken once to
    count them and once to record, and the graph reaches from the first of those recorded for any
    task to the last, so that memory grows by the spread of the tasks' numbers of steps.

    Attributes:
        steps: number of last steps to record.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"Truncated got steps={self.steps}; it must record at least one.")

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`; ``by`` must have differentiable steps."""
        refuse_start_with_grad(phi, self)
        solver, objective = unrollable(by, lower, self)
        counts = solver.taken(objective, theta, phi)
        fewest = most = solver.max_steps
        if counts.numel():  # there is a task
            fewest, most = int(counts.min()), int(counts.max())
        memory: Memory = ()
        # one more than taken: the step in which a task finds that it has met its tolerance
        for index in range(min(most + 1, solver.max_steps)):
            recorded = index + self.steps >= fewest
            seen = theta if recorded else detach(theta)
            start = phi
            phi, memory = solver.step(objective, seen, phi, memory, counts)
            if not recorded and index == 0:
                refuse_captured_step(solver, seen, phi)
            if recorded and index + self.steps <= fewest:
                require_second_derivatives(phi, theta, start)
            if recorded and index + self.steps < most:
                mine = index + self.steps >= counts
                phi = like(phi, choose(mine, leaves(phi), leaves(detach(phi))))
                memory = tuple(choose(mine, memory, [part.detach() for part in memory]))
        return phi


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStep:
    """Differentiate one gradient step at the end (Bolte, Pauwels, Vaiter 2023); memory O(1).

    ``v = step_size d f/d phi``: no linear solve, and biased by design by the factor
    ``|I - step_size H|``. It says nothing to ``watch``, since it fails to solve the adjoint system
    on purpose; ``Implicit(Neumann(step_size=step_size, max_steps=1))`` is the same and reports it.

    Attributes:
        step_size: size of the step that is differentiated; 1/L is the usual choice.
    """

    step_size: float

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise InputError(f"OneStep got step_size={self.step_size}; it must be positive.")

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`."""
        adjoint = Implicit(Neumann(step_size=self.step_size, max_steps=1))
        return adjoint.minimise(lower, theta, phi, by, _say_nothing)


@dataclass(frozen=True, slots=True)
class Detached:
    """Take the minimiser as a constant: the first-order method. No derivative, no memory."""

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`."""
        refuse_start_with_grad(phi, self)
        objective, variable = stated(lower, phi)
        problem = Problem(objective, theta, variable, noting())
        found = constant_node(problem, by, (*leaves(theta), *leaves(variable)))
        return like(phi, found[: len(leaves(phi))])


def _say_nothing(certificate: Certificate) -> None:
    """Watch nothing."""


def require_second_derivatives(phi: Tree, *within: Tree) -> None:
    """Raise if the first recorded step holds an operation without a second derivative.

    Backward would raise torch's own error there, outside of this library's reach.

    Raises:
        InputError: naming the custom functions.
    """
    outside = [leaf for tree in within for leaf in leaves(tree)]
    for leaf in leaves(phi):
        custom = custom_functions(leaf, within=outside)
        refuse_error_node([leaf], custom, within=outside)


def unrollable(
    by: Solver, lower: Condition[Theta, Phi], adjoint: Adjoint
) -> tuple[Unrollable, Objective[Theta, Phi]]:
    """The lower solver and the objective, refused if the steps can't be differentiated.

    Raises:
        InputError: naming the adjoint and the solver.
    """
    if isinstance(lower, Equation):
        raise InputError(
            f"{adjoint} differentiates through the steps of a minimiser, and {type(lower).__name__}"
            " states an equation; use Implicit(...)."
        )
    if not isinstance(by, Unrollable):
        raise InputError(
            f"{adjoint} differentiates through lower steps, and {type(by).__name__} has no "
            "differentiable step; use GradientDescent, Nesterov or Descent, or Implicit(...), "
            "which works after any lower solver."
        )
    return by, lower


def refuse_start_with_grad(phi: Tree, adjoint: Adjoint) -> None:
    """Refuse a start whose derivative would silently be lost.

    Raises:
        InputError: naming the leaf and the adjoint.
    """
    for label, leaf in zip(names(phi, "phi0"), leaves(phi), strict=True):
        if leaf.requires_grad:
            raise InputError(
                f"{label} requires grad, but {adjoint} does not differentiate the start: its "
                "derivative would silently be lost. Pass phi0.detach(), or use Unrolled()."
            )
