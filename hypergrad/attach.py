"""``attach``, the opposite of ``detach``: a finished minimiser becomes a differentiable value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, cast

import torch
from torch import Tensor

from hypergrad.certificate import Watch, warn
from hypergrad.errors import DoubleBackwardError
from hypergrad.implicit import pull
from hypergrad.linear.solution import LinearSolver
from hypergrad.objective import Objective, examine
from hypergrad.tree import Phi, Theta, detach, leaves, like


def attach(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver,
    watch: Watch = warn,
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
        watch: is given the certificate when backward has run; :func:`warn` (default),
            :func:`strict`, or any callable, such as a list's ``append``.

    Returns:
        A tree like phi, with the same values.

    Raises:
        InputError: an argument or the objective can't be used.
        NotFiniteError: g is NaN or infinite, here; or a derivative is, in backward.
        DoubleBackwardError: in backward, if a second derivative is asked for.
    """
    examine(lower, theta, phi)
    return link(lower, theta, phi, solver=solver, watch=watch)


def link(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver,
    watch: Watch,
) -> Phi:
    """:func:`attach` for an objective that was examined already."""
    call = _Call(lower, detach(theta), detach(phi), solver, watch)
    node: Callable[..., tuple[Tensor, ...]] = _Attach.apply
    return like(phi, node(call, *leaves(theta), *leaves(detach(phi))))


@dataclass(frozen=True, slots=True)
class _Call(Generic[Theta, Phi]):
    """What backward needs beside the saved tensors. The trees serve as structure only."""

    lower: Objective[Theta, Phi]
    theta: Theta
    phi: Phi
    solver: LinearSolver
    watch: Watch


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
        gradients, certificate = pull(
            call.lower,
            theta,
            phi,
            like(call.phi, cotangents),
            solver=call.solver,
            start=None,
            needed=needed,
        )
        call.watch(certificate)
        if torch.is_grad_enabled():  # backward was called with create_graph=True
            once: Callable[..., Tensor] = _Once.apply
            gradients = [once(part, *tensors, *cotangents) for part in gradients]
        served = iter(gradients)
        return (
            None,
            *(next(served) if need else None for need in needed),
            *(None for _ in tensors[count:]),
        )


class _Once(torch.autograd.Function):
    """The identity on its first argument, which refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *anchors: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, ...]:
        raise DoubleBackwardError(
            "a second derivative through attach was asked for, which is differentiable once. Use "
            "adjoint=Unrolled() in argmin for second derivatives, or leave out create_graph=True."
        )
