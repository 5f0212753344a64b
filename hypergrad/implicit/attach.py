"""``attach``, the opposite of ``detach``: a finished minimiser becomes a differentiable value."""

from __future__ import annotations

from typing import Any

from hypergrad.equation import Equation, Saddle, as_adjoint, stated
from hypergrad.errors import InputError
from hypergrad.guards import noting
from hypergrad.implicit.curvature import Curvature, Hessian
from hypergrad.implicit.derivatives import Problem
from hypergrad.implicit.nodes import Call, attach_node
from hypergrad.implicit.watch import Watch, warn
from hypergrad.linear.operator import Kind
from hypergrad.linear.solution import LinearSolver
from hypergrad.lower.minimum import LowerSolver, RootSolver
from hypergrad.objective import Objective, is_indefinite
from hypergrad.transforms import outside_compilers
from hypergrad.tree import Phi, Theta, check_tree, detach, hollow, leaves, like, widened


@outside_compilers
def attach(
    lower: Objective[Theta, Phi] | Equation[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver | None = None,
    curvature: Curvature = Hessian(),
    watch: Watch = warn,
    start: Phi | None = None,
) -> Phi:
    """State that ``phi`` minimises ``lower(theta, .)``, so that autograd can differentiate it.

    Returns the same values, attached to theta's graph. Backward solves ``H v = d f/d phi`` and
    hands ``-J v`` on to theta. Only theta and phi are kept for it, so that memory does not depend
    on how phi was found; whoever found it, and how, plays no part (a graph that phi already
    carries is not used).

    Args:
        lower: g, one value for each task; may use tensors that don't require grad freely. Or
            another condition that defines phi: a value of ``hypergrad.conditions``.
        theta: upper variable, or whatever differentiable tensors the lower level sees of it.
        phi: a minimiser, leading dimensions = tasks.
        solver: solves the adjoint system when backward runs; None chooses by size and structure
            (docs/solvers.md), and the certificate says what.
        curvature: second derivatives that the adjoint uses; :class:`Hessian` (default),
            :class:`GaussNewton`, :class:`FiniteDifference`.
        watch: is given the certificate when backward has run; :func:`warn` (default),
            :func:`strict`, or any callable, such as a list's ``append``.
        start: a first guess of v, a tree like phi: the ``adjoint.x`` that ``watch`` received at
            an earlier upper step, say (see :class:`WarmStarts`). Mind that v solves ``H v = c``
            with the c that backward brings: of a mean over B tasks, it is divided by B.

    Returns:
        A tree like phi, with the same values.

    Raises:
        InputError: an argument or the objective can't be used.
        NotFiniteError: g is NaN or infinite, here; or a derivative is, in backward.
        DoubleBackwardError: in backward, if a second derivative is asked for through another
            curvature than :class:`Hessian`.
        TransformError: a transform of torch can't go through here (docs/transforms.md).
    """
    return attached(lower, theta, phi, solver=solver, curvature=curvature, watch=watch, start=start)


def attached(
    lower: Objective[Theta, Phi] | Equation[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver | None,
    curvature: Curvature,
    watch: Watch,
    start: Phi | None,
    by: LowerSolver | RootSolver | None = None,
) -> Phi:
    """The node at phi, or, if a lower solver is given, from phi."""
    check_tree(theta, "theta")
    check_tree(phi, "phi")
    theta, phi = widened(theta, phi), detach(phi)
    objective, variable = stated(lower, phi)
    require_solver(solver, objective)
    guess: Any = None if start is None else detach(start)
    if variable is not phi and guess is not None:
        guess = as_adjoint(guess)
    call = Call(
        problem=Problem(objective, hollow(theta), hollow(variable), noting()),
        solver=solver,
        curvature=curvature,
        watch=watch,
        by=by,
        start=guess,
    )
    output = attach_node(call, *leaves(theta), *leaves(variable))
    return like(phi, output[: len(leaves(phi))])


def require_solver(solver: object, lower: object) -> None:
    """Raise if this is no linear solver, or one for another kind of matrix than the condition's.

    Raises:
        InputError: saying what was given.
    """
    if solver is None:
        return
    if isinstance(solver, type) or not callable(getattr(solver, "solve", None)):
        given = f"the class {solver.__name__}" if isinstance(solver, type) else repr(solver)
        raise InputError(
            f"solver is {given}; give a linear solver's value, such as CG(), or None to choose."
        )
    needs = getattr(solver, "needs", Kind.GENERAL)
    if isinstance(lower, Saddle) and needs is not Kind.GENERAL:
        raise InputError(
            f"solver is {type(solver).__name__}, which needs a symmetric matrix, and the Jacobian "
            f"of {type(lower.equation).__name__} need not be; use GMRES, BiCGStab or LU "
            "(hypergrad.solvers), or None to choose."
        )
    if is_indefinite(lower) and needs is Kind.DEFINITE:
        raise InputError(
            f"solver is {type(solver).__name__}, which needs a positive definite matrix, and "
            f"{type(lower).__name__} declares the Hessian indefinite; use MINRES, or "
            "hypergrad.solvers.LU, or None to choose."
        )
