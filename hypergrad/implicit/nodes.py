"""The autograd nodes of a minimiser: their derivative rules are made of the same nodes.

All numerical work happens in the forwards, which see plain tensors under every transform of
torch.func. So checks, data-dependent stopping and fresh leaves stay ordinary eager code, and what
composes are the rules:

- ``_Attach`` is the identity on phi*. Backward: ``-J v`` with ``H v = c``, at the *attached*
  output, so that the graph goes on through it. Forward mode: ``-H^{-1} J' dtheta``.
- ``_Pull`` is ``(theta, phi, c) -> (v, -J v)``, the kernel's pullback.

Derivatives of g itself are the node of ``derivatives.py``.

A mapped transform (vmap) adds one leading dimension of tasks: the mapped objective returns one
value for each of them, and the Hessian stays block diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor

from hypergrad.engine import filled
from hypergrad.errors import DoubleBackwardError
from hypergrad.guards import resumed
from hypergrad.implicit.curvature import Curvature, Hessian
from hypergrad.implicit.derivatives import (
    Direction,
    Problem,
    Tensors,
    applied,
    derivative,
    front,
    spread,
)
from hypergrad.implicit.pullback import pull
from hypergrad.implicit.watch import Watch
from hypergrad.linear.solution import LinearSolver
from hypergrad.lower.minimum import LowerSolver, RootSolver, solve
from hypergrad.objective import examine
from hypergrad.transforms import (
    NothingCaptured,
    one_by_one,
    raise_if_forward_twice,
    raise_if_tracing,
    transforming,
)
from hypergrad.tree import (
    Phi,
    Theta,
    flatten,
    full_precision,
    leaves,
    like,
    unflatten,
    vector_of,
)


@dataclass(frozen=True, eq=False)
class Call(Generic[Theta, Phi]):
    """One call of ``attach``: all that is no tensor."""

    problem: Problem[Theta, Phi]
    solver: LinearSolver | None
    curvature: Curvature
    watch: Watch
    by: LowerSolver | RootSolver | None = None  # finds the minimiser, where phi is a start
    start: Phi | None = None  # a first guess of v
    transformed: bool = False  # whether a transform of torch.func runs

    def mapped(self, size: int, in_theta: Sequence[bool] | None = None) -> Call[Any, Any]:
        """The call of all mapped problems together; the guess of v is the same for each."""
        start: Any = self.start
        if start is not None:
            start = like(start, spread(leaves(start), [None] * len(leaves(start)), size))
        return replace(self, problem=self.problem.mapped(in_theta), start=start)

    def anew(self) -> Call[Theta, Phi]:
        """The call for another right-hand side, which the guess of v does not fit."""
        return replace(self, start=None)


class _Attach(torch.autograd.Function):
    """``(theta, phi) -> (phi*, g there, lower_converged)`` by the lower solver."""

    @staticmethod
    def forward(call: Call[Any, Any], *point: Tensor) -> tuple[Any, ...]:
        theta, phi = call.problem.trees(point)
        lower_converged = None
        with full_precision(phi), resumed(call.problem.checks):
            if call.by is not None:
                found = solve(call.by, call.problem.lower, theta, phi)
                phi, lower_converged = found.phi, found.converged
            with NothingCaptured(call.problem.lower) if call.transformed else nullcontext():
                values = examine(call.problem.lower, theta, phi)
        if call.start is not None:
            vector_of(call.start, phi, "start", values.shape)  # for its checks
        return *(leaf.view_as(leaf) for leaf in leaves(phi)), values, lower_converged

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.call, *point = inputs
        *phi, values, lower_converged = output
        ctx.mark_non_differentiable(
            *(part for part in (values, lower_converged) if part is not None)
        )
        theta = point[: len(leaves(ctx.call.problem.theta))]
        # the kept tensors are watched for changes in place; phi is the output, with its graph
        ctx.save_for_backward(*theta, *phi)
        ctx.save_for_forward(*theta, *phi)
        ctx.evidence = values, lower_converged

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        call: Call[Any, Any] = ctx.call
        point: Tensors = ctx.saved_tensors
        count, size = call.problem.counts
        needed = tuple(ctx.needs_input_grad[1 : 1 + count])
        values, lower_converged = ctx.evidence

        def back(*cotangents: Any) -> Tensors:
            held = [flatten(cotangents, values.shape)]
            _, *gradients = pull_node(call, needed, values, lower_converged, point, held)
            return tuple(gradients)

        served = iter(one_by_one(back, cotangents[:size]))
        parts = (next(served) if need else None for need in needed)
        return None, *parts, *(None for _ in range(size))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        call: Call[Any, Any] = ctx.call
        point: Tensors = ctx.saved_tensors
        count, _ = call.problem.counts
        moved = filled(tangents[1 : 1 + count], point[:count])
        values, lower_converged = ctx.evidence
        raise_if_forward_twice()

        def push(*moved: Tensor) -> Tensors:
            mixed = derivative(call.problem, point, [Direction(theta=moved)])
            c = -flatten(mixed[count:], values.shape)
            v, *_ = pull_node(call.anew(), (False,) * count, values, lower_converged, point, [c])
            return tuple(unflatten(v, point[count:]))

        return *one_by_one(push, moved), None, None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], call: Call[Any, Any], *point: Tensor
    ) -> tuple[Any, Any]:
        count, _ = call.problem.counts
        theta = [front(leaf, dim) for leaf, dim in zip(point[:count], dims[1:], strict=False)]
        phi = spread(point[count:], dims[1 + count :], info.batch_size)
        in_theta = [dim is not None for dim in dims[1 : 1 + count]]
        output = attach_node(call.mapped(info.batch_size, in_theta), *theta, *phi)
        return output, tuple(None if part is None else 0 for part in output)


class _Pull(torch.autograd.Function):
    """``(theta, phi, c) -> (v, -J v)`` with ``H v = c``; -J v for the needed leaves of theta."""

    @staticmethod
    def forward(
        call: Call[Any, Any],
        needed: tuple[bool, ...],
        values: Tensor,
        lower_converged: Tensor | None,
        *tensors: Tensor,
    ) -> Tensors:
        return _pulled(call, needed, values, lower_converged, tensors[:-1], lambda: tensors[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.call, ctx.needed, ctx.values, ctx.lower_converged, *tensors = inputs
        ctx.save_for_backward(*tensors[:-1], output[0])
        ctx.save_for_forward(*tensors[:-1], output[0])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        call: Call[Any, Any] = ctx.call
        require_hessian(call.curvature)
        *point, v = ctx.saved_tensors
        count, _ = call.problem.counts

        def back(u: Tensor, *rest: Tensor) -> Tensors:
            # f = <u, v> + <s, -J v>: v's own cotangent is u - J's, and d v = H^{-1} (dc - dH v)
            given = iter(rest)
            zeros = (torch.zeros_like(leaf) for leaf in point[:count])
            s = tuple(
                next(given) if need else zero for need, zero in zip(ctx.needed, zeros, strict=True)
            )
            mixed = derivative(call.problem, point, [Direction(theta=s)])
            own = u - flatten(mixed[count:], v.shape[:-1])
            none = (False,) * count
            w, *_ = pull_node(call.anew(), none, ctx.values, ctx.lower_converged, point, [own])
            along = [
                Direction(phi=phi_parts(call.problem, point, v)),
                Direction(s, phi_parts(call.problem, point, w)),
            ]
            third = derivative(call.problem, point, along)
            return *(-part for part in third), w

        grads = one_by_one(back, cotangents)
        return None, None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        call: Call[Any, Any] = ctx.call
        raise_if_forward_twice()
        require_hessian(call.curvature)
        *point, v = ctx.saved_tensors
        count, _ = call.problem.counts
        moved = filled(tangents[4:], (*point, v))

        def push(*moved: Tensor) -> Tensors:
            *at, dc = moved
            along = Direction(tuple(at[:count]), tuple(at[count:]))
            fixed = Direction(phi=phi_parts(call.problem, point, v))
            turned = derivative(call.problem, point, [fixed, along])  # (dJ v, dH v)
            c = dc - flatten(turned[count:], v.shape[:-1])
            dv, *_ = pull_node(
                call.anew(), (False,) * count, ctx.values, ctx.lower_converged, point, [c]
            )
            along = Direction(phi=phi_parts(call.problem, point, dv))
            pulled = derivative(call.problem, point, [along])
            dg = (-(left + right) for left, right in zip(turned, pulled, strict=True))
            return dv, *(part for part, need in zip(dg, ctx.needed, strict=False) if need)

        return one_by_one(push, moved)

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        call: Call[Any, Any],
        needed: tuple[bool, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensors, Any]:
        # theta is spread, too: each mapped c has a -J v of its own
        moved = spread(tensors, dims[2:], info.batch_size)
        outer = call.mapped(info.batch_size)
        output = applied(_Pull, outer, needed, *moved)
        return output, tuple(0 for _ in output)


def attach_node(call: Call[Any, Any], *point: Tensor) -> tuple[Any, ...]:
    """``(*phi*, g there, whether the lower solver converged)`` for the leaves of theta and phi."""
    raise_if_tracing()
    within = call.transformed or transforming(*point)
    return applied(_Attach, replace(call, transformed=within), *point)


class _Constant(torch.autograd.Function):
    """``(theta, start) -> phi`` where the lower solver ends, without a derivative."""

    @staticmethod
    def forward(
        problem: Problem[Any, Any], by: LowerSolver | RootSolver, *point: Tensor
    ) -> Tensors:
        theta, phi = problem.trees([leaf.detach() for leaf in point])
        with full_precision(phi), resumed(problem.checks):
            return tuple(leaves(solve(by, problem.lower, theta, phi).phi))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.mark_non_differentiable(*output)
        ctx.outputs = len(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[None, ...]:
        return tuple(None for _ in ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None, ...]:
        return tuple(None for _ in range(ctx.outputs))

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        problem: Problem[Any, Any],
        by: LowerSolver | RootSolver,
        *point: Tensor,
    ) -> tuple[Tensors, Any]:
        moved = spread(point, dims[2:], info.batch_size)
        output = applied(_Constant, problem.mapped(), by, *moved)
        return output, tuple(0 for _ in output)


def constant_node(
    problem: Problem[Any, Any], by: LowerSolver | RootSolver, point: Sequence[Tensor]
) -> Tensors:
    """The leaves of phi where the lower solver ends, constant under every transform."""
    if not transforming(*point):
        return _Constant.forward(problem, by, *point)
    return applied(_Constant, problem, by, *point)


def pull_node(
    call: Call[Any, Any],
    needed: tuple[bool, ...],
    values: Tensor,
    lower_converged: Tensor | None,
    point: Sequence[Tensor],
    held: list[Tensor],
) -> Tensors:
    """``_Pull``; without a node where nobody can differentiate it.

    ``held`` is a list of c alone. Without a node it is emptied, so that c ends with the solve.
    """
    raise_if_tracing()
    if torch.is_grad_enabled() or transforming(*point, *held):
        return applied(_Pull, call, needed, values, lower_converged, *point, *held)
    return _pulled(call, needed, values, lower_converged, point, held.pop)


def _pulled(
    call: Call[Any, Any],
    needed: tuple[bool, ...],
    values: Tensor,
    lower_converged: Tensor | None,
    point: Sequence[Tensor],
    cotangent: Callable[[], Tensor],
) -> Tensors:
    """The numbers of ``_Pull``, and the certificate to the watch."""
    theta, phi = call.problem.trees(point)
    start = call.start
    with resumed(call.problem.checks):
        first = None
        if start is not None:
            first = partial(vector_of, start, phi, "start")
        v, gradients, certificate = pull(
            call.problem.lower,
            theta,
            phi,
            lambda batch: cotangent(),
            solver=call.solver,
            curvature=call.curvature,
            start=first,
            needed=needed,
            values=values,
        )
    call.watch(replace(certificate, by=call.by, lower_converged=lower_converged))
    return v, *gradients


def phi_parts(problem: Problem[Any, Any], point: Sequence[Tensor], vector: Tensor) -> Tensors:
    """A vector ``(*batch, n)`` as leaves like phi's."""
    return tuple(unflatten(vector, point[problem.counts[0] :]))


def require_hessian(curvature: Curvature) -> None:
    """Raise if the system solved was not that of g itself, whose derivative is known here.

    Raises:
        DoubleBackwardError: naming the curvature.
    """
    if not isinstance(curvature, Hessian):
        raise DoubleBackwardError(
            f"a second derivative was asked for through {type(curvature).__name__}, which stands "
            "for another matrix than the Hessian; use curvature=Hessian() for second derivatives."
        )
