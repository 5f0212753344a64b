"""The one kernel: from a cotangent of the minimiser to a cotangent of theta.

If phi*(theta) minimises g(theta, .), then ``dphi*/dtheta = -H^{-1} J'`` and for a cotangent
``c = d f/d phi`` the chain rule gives ``(dphi*/dtheta)' c = -J v`` with ``H v = c``: one linear
system and one cross product, whatever led to phi*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.engine import filled, pulled
from hypergrad.equation import Equation, Saddle, called, stated, unpaired
from hypergrad.errors import InputError
from hypergrad.guards import raise_where, require_finite, require_same_values
from hypergrad.implicit.active import active_set, is_non_smooth
from hypergrad.implicit.certificate import MINIMISER, ROOT, STATIONARY, Certificate, Claim
from hypergrad.implicit.curvature import Curvature, Hessian, Point
from hypergrad.implicit.saddle import Jacobian, linearise
from hypergrad.implicit.stationarity import newton_step
from hypergrad.linear.automatic import chosen
from hypergrad.linear.halves import solved
from hypergrad.linear.operator import Kind, Operator
from hypergrad.linear.solution import LinearSolver, Status
from hypergrad.linear.vectors import dot, norm
from hypergrad.objective import Bilevel, Objective, across_ranks, evaluate, is_indefinite
from hypergrad.tree import (
    Phi,
    Theta,
    check_same_kind,
    check_tree,
    detach,
    flatten,
    fresh_leaf,
    full_precision,
    joined,
    leaves,
    like,
    vector_of,
)


def pullback(
    lower: Objective[Theta, Phi] | Equation[Theta, Phi],
    theta: Theta,
    phi: Phi,
    cotangent: Phi,
    *,
    solver: LinearSolver | None = None,
    curvature: Curvature = Hessian(),
    start: Phi | None = None,
) -> tuple[Theta, Certificate]:
    """Pull ``c = d f/d phi`` back through the minimiser: ``-J v`` with ``H v = c``.

    The paper's Algorithm 1, lines for v and the cross term; theory.md section 0 for H and J.

    Args:
        lower: g, one value for each task; or a condition, see :func:`attach`.
        theta: upper variable.
        phi: the minimiser of ``g(theta, .)``, leading dimensions = tasks.
        cotangent: c, a tree like phi.
        solver: solves the adjoint system; None chooses (docs/solvers.md).
        curvature: second derivatives that H stands for.
        start: a first guess of v, a tree like phi (the v of a previous upper step, say).

    Returns:
        A tree like theta, and the certificate. Look at it: a failed solve does not raise here.

    Raises:
        InputError: an argument or the objective can't be used.
        NotFiniteError: g, its gradient, a product or the cotangent is NaN or infinite.
    """
    objective, point = stated(lower, phi)
    _, parts, certificate = pull(
        objective,
        theta,
        point,
        lambda batch: vector_of(cotangent, phi, "the cotangent", batch),
        solver=solver,
        curvature=curvature,
        start=None if start is None else lambda batch: vector_of(start, phi, "start", batch),
        needed=[True] * len(leaves(theta)),
    )
    return like(theta, parts), certificate


Vector: TypeAlias = Callable[[Size], Tensor]
"""A vector ``(*batch, n)``, made when the tasks' dimensions are known."""


def pull(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    cotangent: Vector,
    *,
    solver: LinearSolver | None,
    curvature: Curvature,
    start: Vector | None,
    needed: Sequence[bool],
    values: Float[Tensor, "*batch"] | None = None,
) -> tuple[Tensor, list[Tensor], Certificate]:
    """v, and :func:`pullback` for the leaves of theta that are ``needed``, in their order.

    ``values`` are the lower objective's at an earlier evaluation, if there was one: they must not
    have changed. Of a saddle, phi is a pair and v has both its parts; the cotangent and the start
    may be of phi alone.
    """
    with full_precision(phi):
        point = _linearised(curvature, lower, theta, phi, needed)
        if values is not None:
            what = called(lower) if not isinstance(lower, Saddle) else f"|F| of {called(lower)}"
            require_same_values(
                point.values, values, lambda: _rounding(lower, theta, phi, point), what=what
            )
        rhs = cotangent(point.batch)
        if (n := point.gradient.shape[-1]) != rhs.shape[-1]:
            rhs = torch.cat([rhs, torch.zeros_like(rhs)], dim=-1)  # the multiplier's is zero
        size = norm(rhs)
        require_finite(
            rhs, "the right-hand side d f/d phi of the adjoint system", per_task=False, norms=size
        )
        first = None if start is None else start(point.batch)
        if first is not None and first.shape[-1] != n:
            first = torch.cat([torch.zeros_like(first), first], dim=-1)
        if (ranks := across_ranks(lower)) is not None:
            given = {"the right-hand side d f/d phi": rhs, "d g/d phi": point.gradient}
            ranks.require_alike(given if first is None else given | {"start": first})
        solver = chosen(point.hessian, rhs) if solver is None else solver
        with point.aside():
            v, solution = solved(solver, point.hessian, rhs, first)
        broken = solution.status == Status.NOT_FINITE.value  # torch is slow with an enum
        product = "a Hessian product H v (or H^-1 v, where H is not positive definite)"
        if isinstance(lower, Saddle):
            product = "a product with the Jacobian dF/dphi (or its inverse, where it is singular)"
        raise_where(broken, product)
        if ranks is not None:
            end = {"v": v, "its residual": solution.residual, "its status": solution.status}
            ranks.require_alike(end)
        gradients = [-part for part in point.cross(v)]
        for gradient in gradients:
            require_finite(gradient.reshape(-1), "the cross product J v", per_task=False)
        predicted, slope = dot(v, point.gradient), norm(point.gradient)
        active = None
        if is_non_smooth(lower):
            active = active_set(lower, theta, phi, solution=solution, slope=slope, size=size)
        del rhs  # before the products of the probe and of the step to the minimiser
        answer, curved = solution.x, None
        if point.probe is not None:
            answer, curved = _answered(point.hessian, v)
        step, probe = newton_step(point, phi, solution, predicted, slope, size), point.probe
        del point  # and the graph, before the probe makes others
        wrong = None
        if probe is not None and curved is not None:
            wrong = probe(answer, curved, [-part for part in gradients])
        certificate = Certificate(
            stationarity=slope,
            predicted_error=predicted,
            newton_step=step,
            adjoint=solution,
            cotangent_norm=size,
            curvature=curvature,
            solver=solver,
            phi=detach(unpaired(phi)),
            active=active,
            claim=_claim(lower),
            second_derivative_error=wrong,
        )
    return v, gradients, certificate


def _linearised(
    curvature: Curvature, lower: Any, theta: Any, phi: Any, needed: Sequence[bool]
) -> Point:
    """The condition at a point, in the words of :class:`Point`.

    Raises:
        InputError: a curvature that stands for another matrix was given for an equation.
    """
    if not isinstance(lower, Saddle):
        point = curvature.linearise(lower, theta, phi, needed=needed)
        if is_indefinite(lower):
            point.hessian.kind = Kind.SYMMETRIC
        return point
    if not isinstance(curvature, Hessian):
        raise InputError(
            f"curvature={type(curvature).__name__}(...) approximates the Hessian of an objective, "
            f"and {type(lower.equation).__name__} has none; leave curvature out."
        )
    return linearise(lower, theta, phi, needed=needed, probe=curvature.probe)


def _answered(hessian: Operator, v: Tensor) -> tuple[Tensor, Tensor]:
    """``v`` and ``H v``; of a saddle the half of v that solves ``A' u = c``, and ``A' u``."""
    if hessian.halves is None:
        return v, hessian.image(v)
    u = v.chunk(2, dim=-1)[1]
    return u, hessian.halves.transposed.image(u)


def _rounding(lower: Any, theta: Any, phi: Any, point: Point) -> Tensor:
    """The size of the terms of g, ``|H r| / |r| |phi|^2``, or of an equation's F.

    At a root F itself may be zero and tells no direction, and phi may be zero, so that F's terms
    are those of theta: ``(|A' w| |phi| + |(dF/dtheta)' w| |theta|) / |w|``, with a fixed w.
    """
    length = norm(flatten(leaves(phi), point.batch))
    if not isinstance(lower, Saddle):
        stretch = norm(point.hessian.exact(point.gradient))
        size = norm(point.gradient)
        return torch.where(size > 0, stretch / torch.where(size > 0, size, 1.0), 0.0) * length**2
    at = Jacobian(lower, theta, phi)
    w = torch.arange(at.residual.shape[-1]).cos().to(at.residual).expand_as(at.residual)
    in_theta = [
        part.norm() * leaf.detach().norm()
        for part, leaf in zip(at.cross(w), leaves(theta), strict=True)
    ]
    terms: Tensor = (norm(at.transposed(w)) * length + sum(in_theta)) / norm(w)
    return terms


def _claim(lower: object) -> Claim:
    if isinstance(lower, Saddle):
        return ROOT
    return STATIONARY if is_indefinite(lower) else MINIMISER


@dataclass(frozen=True, eq=False)
class Hypergradient(Generic[Theta]):
    """The upper objective's value and gradient through the minimiser, with the evidence.

    Attributes:
        value: ``()`` ``mean_i f_i(theta, phi_i)``.
        grad: like theta, ``mean_i (d f_i/d theta - J_i v_i)``.
        certificate: stationarity and adjoint for each task; ``certificate.adjoint.x`` holds each
            task's v_i (``H_i v_i = d f_i/d phi``, not divided by the number of tasks).
    """

    value: Float[Tensor, ""]
    grad: Theta
    certificate: Certificate

    @property
    def corrected_value(self) -> Float[Tensor, ""]:
        """``mean_i (f_i - <v_i, r_i>)``: the value at the minimiser, to second order in phi - phi*.

        ``<v, r>`` is the certificate's ``predicted_error``; v must have been solved for.
        """
        tasks = max(self.certificate.predicted_error.numel(), 1)
        return self.value - self.certificate.predicted_error.sum() / tasks


def hypergradient(
    problem: Bilevel[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver | None = None,
    curvature: Curvature = Hessian(),
    start: Phi | None = None,
) -> Hypergradient[Theta]:
    """The hypergradient of ``mean_i f_i`` at a given (approximate) minimiser.

    The functional face of the library: nothing is attached to a graph, the certificate is a value.

    Args:
        problem: f and g.
        theta: upper variable.
        phi: the minimiser of ``g(theta, .)``, leading dimensions = tasks.
        solver: solves each task's adjoint system; None chooses (docs/solvers.md).
        curvature: second derivatives that H stands for.
        start: a first guess of each task's v, a tree like phi.

    Returns:
        Value, gradient and certificate. A failed solve is reported in the certificate.

    Raises:
        InputError: an argument or an objective can't be used.
        NotFiniteError: a value, a gradient or a product is NaN or infinite.
    """
    check_tree(theta, "theta")
    check_tree(phi, "phi")
    check_same_kind(theta, phi)
    theta_leaves: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(theta)]
    phi_leaves: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(phi)]
    values = evaluate(problem.upper, like(theta, theta_leaves), like(phi, phi_leaves), role="upper")
    points = [*theta_leaves, *phi_leaves]
    gradients = pulled(values, points, torch.ones_like(values), keep=False)
    direct = gradients[: len(theta_leaves)]
    cotangent = list(filled(gradients[len(theta_leaves) :], phi_leaves))
    del gradients  # the cotangent's leaves end where they are joined
    objective, point = stated(problem.lower, phi)
    _, indirect, certificate = pull(
        objective,
        theta,
        point,
        lambda batch: joined(cotangent, batch),
        solver=solver,
        curvature=curvature,
        start=None if start is None else lambda batch: vector_of(start, phi, "start", batch),
        needed=[True] * len(theta_leaves),
    )
    tasks = max(values.numel(), 1)
    grad = [
        right / tasks if left is None else (left + right) / tasks
        for left, right in zip(direct, indirect, strict=True)
    ]
    value = values.detach()
    return Hypergradient(
        value=value.sum() / tasks if value.ndim else value,
        grad=like(theta, grad),
        certificate=certificate,
    )
