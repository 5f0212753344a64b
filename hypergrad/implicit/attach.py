"""``attach``, the opposite of ``detach``: a finished minimiser becomes a differentiable value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, cast

import torch
from torch import Tensor

from hypergrad.errors import DoubleBackwardError
from hypergrad.guards import Deferred, noting, resumed
from hypergrad.implicit.certificate import Watch, warn
from hypergrad.implicit.curvature import Curvature, Hessian
from hypergrad.implicit.pullback import pull
from hypergrad.linear.solution import LinearSolver
from hypergrad.objective import Objective, examine
from hypergrad.tree import Phi, Theta, detach, full_precision, leaves, like, vector_of, widened


def attach(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver,
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
        lower: g, one value for each task; may use tensors that don't require grad freely.
        theta: upper variable, or whatever differentiable tensors the lower level sees of it.
        phi: a minimiser, leading dimensions = tasks.
        solver: solves the adjoint system when backward runs.
        curvature: which second derivatives it uses; :class:`Hessian` (default),
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
        DoubleBackwardError: in backward, if a second derivative is asked for.
    """
    return link(lower, theta, phi, solver, curvature, watch, start, met=None)


def link(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    solver: LinearSolver,
    curvature: Curvature,
    watch: Watch,
    start: Phi | None,
    *,
    met: Tensor | None,
) -> Phi:
    """:func:`attach`, for a caller who knows whether the lower solver ``met`` its tolerance."""
    theta = widened(theta, phi)
    with full_precision(phi):
        values = examine(lower, theta, phi)
    if start is not None:
        vector_of(start, phi, "start", values.shape)  # for its checks
        start = detach(start)
    call = _Call(
        lower=lower,
        theta=detach(theta),
        phi=detach(phi),
        solver=solver,
        curvature=curvature,
        watch=watch,
        start=start,
        values=values,
        met=met,
        checks=noting(),
    )
    node: Callable[..., tuple[Tensor, ...]] = _Attach.apply
    return like(phi, node(call, *leaves(theta), *leaves(detach(phi))))


@dataclass(frozen=True)
class _Call(Generic[Theta, Phi]):
    """What backward needs beside the saved tensors. The trees serve as structure only."""

    lower: Objective[Theta, Phi]
    theta: Theta
    phi: Phi
    solver: LinearSolver
    curvature: Curvature
    watch: Watch
    start: Phi | None
    values: Tensor  # (*batch,) of the lower objective when phi was attached
    met: Tensor | None  # (*batch,) whether the lower solver met its tolerance
    checks: Deferred | None  # where its checks are noted; another thread may run backward


class _Attach(torch.autograd.Function):
    """The node: forward is the identity on phi, backward is the kernel's pullback."""

    @staticmethod
    def forward(ctx: Any, call: _Call[Any, Any], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*tensors)  # checks that nobody changes them in place
        return tuple(phi.view_as(phi) for phi in tensors[len(leaves(call.theta)) :])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call[Any, Any] = ctx.call
        tensors = cast(tuple[Tensor, ...], ctx.saved_tensors)
        count = len(leaves(call.theta))
        needed = ctx.needs_input_grad[1 : 1 + count]
        theta, phi = like(call.theta, tensors[:count]), like(call.phi, tensors[count:])
        with resumed(call.checks):
            gradients, certificate = pull(
                call.lower,
                theta,
                phi,
                like(call.phi, cotangents),
                solver=call.solver,
                curvature=call.curvature,
                start=call.start,
                needed=needed,
                values=call.values,
            )
        call.watch(replace(certificate, lower_converged=call.met))
        if torch.is_grad_enabled():  # backward was called with create_graph=True
            gradients = refuse_twice(gradients, [*tensors, *cotangents])
        served = iter(gradients)
        return (
            None,
            *(next(served) if need else None for need in needed),
            *(None for _ in tensors[count:]),
        )


def refuse_twice(gradients: Sequence[Tensor], anchors: Sequence[Tensor]) -> list[Tensor]:
    """The same gradients, which refuse to be differentiated in the tensors they depend on."""
    once: Callable[..., Tensor] = _Once.apply
    return [once(gradient, *anchors) for gradient in gradients]


class _Once(torch.autograd.Function):
    """The identity on its first argument, which refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *anchors: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, ...]:
        raise DoubleBackwardError(
            "a second derivative through a minimiser was asked for, which is differentiable once. "
            "Use adjoint=Unrolled() in argmin for second derivatives, or leave out "
            "create_graph=True."
        )
