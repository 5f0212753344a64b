"""The autograd nodes of a minimiser: their derivative rules are made of the same nodes.

All numerical work happens in the forwards, which see plain tensors under every transform of
torch.func. So checks, data-dependent stopping and fresh leaves stay ordinary eager code, and what
composes are the rules:

- ``_Attach`` is the identity on phi*. Backward: ``-J v`` with ``H v = c``, at the *attached*
  output, so that the graph goes on through it. Forward mode: ``-H^{-1} J' dtheta``.
- ``_Pull`` is ``(theta, phi, c) -> (v, -J v)``, the kernel's pullback.
- ``_Derivative`` is the gradient of ``D^k g [d_1, ..., d_k]`` in (theta, phi), for directions
  d_i in (theta, phi). It is multilinear and symmetric in the directions, so that its derivative of
  any kind is itself, of order k + 1 or in another direction. ``J v`` and ``H v`` are its parts for
  one direction (0, v).

A mapped transform (vmap) adds one leading dimension of tasks: the mapped objective returns one
value for each of them, and the Hessian stays block diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeAlias

import torch
from torch import Tensor

from hypergrad.errors import DoubleBackwardError
from hypergrad.graph import custom_among, explained, refuse_compiled, refuse_error_node
from hypergrad.guards import Deferred, refuse_not_finite, resumed
from hypergrad.implicit.curvature import Curvature, Hessian
from hypergrad.implicit.mapped import mapped
from hypergrad.implicit.pullback import pull
from hypergrad.implicit.watch import Watch
from hypergrad.linear.solution import LinearSolver
from hypergrad.lower.minimum import LowerSolver
from hypergrad.objective import Objective, evaluate_with_graph, examine
from hypergrad.transforms import over_batched_cotangents, transforming
from hypergrad.tree import (
    Phi,
    Theta,
    flatten,
    fresh_leaf,
    full_precision,
    leaves,
    like,
    unflatten,
    vector_of,
)

Tensors: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Problem(Generic[Theta, Phi]):
    """A lower objective and the structure of its arguments. The trees' values are not used."""

    lower: Objective[Theta, Phi]
    theta: Theta
    phi: Phi
    checks: Deferred | None  # where checks of values are noted; another thread may run backward

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of leaves of theta and phi."""
        return len(leaves(self.theta)), len(leaves(self.phi))

    def trees(self, tensors: Sequence[Tensor]) -> tuple[Theta, Phi]:
        """The leaves of both, theta's first, as trees."""
        count = len(leaves(self.theta))
        return like(self.theta, tensors[:count]), like(self.phi, tensors[count:])

    def mapped(self, in_theta: Sequence[bool] | None = None) -> Problem[Any, Any]:
        """All mapped problems together; theta has the dimension where ``in_theta`` says so."""
        own = [True] * self.counts[0] if in_theta is None else in_theta
        return replace(self, lower=mapped(self.lower, own))


@dataclass(frozen=True)
class Call(Generic[Theta, Phi]):
    """One call of ``attach``: all that is no tensor."""

    problem: Problem[Theta, Phi]
    solver: LinearSolver | None
    curvature: Curvature
    watch: Watch
    by: LowerSolver | None = None  # finds the minimiser, where phi is a start
    start: Phi | None = None  # a first guess of v

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
    """``(theta, phi) -> (phi*, g, met)``: the minimiser, g there, whether the solver converged."""

    @staticmethod
    def forward(call: Call[Any, Any], *point: Tensor) -> tuple[Any, ...]:
        theta, phi = call.problem.trees(point)
        met = None
        with full_precision(phi), resumed(call.problem.checks):
            if call.by is not None:
                found = call.by.minimise(call.problem.lower, theta, phi)
                phi, met = found.phi, found.converged
            values = examine(call.problem.lower, theta, phi)
        if call.start is not None:
            vector_of(call.start, phi, "start", values.shape)  # for its checks
        return *(leaf.view_as(leaf) for leaf in leaves(phi)), values, met

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.call, *point = inputs
        *phi, values, met = output
        ctx.mark_non_differentiable(*(part for part in (values, met) if part is not None))
        theta = point[: len(leaves(ctx.call.problem.theta))]
        # the kept tensors are watched for changes in place; phi is the output, with its graph
        ctx.save_for_backward(*theta, *phi)
        ctx.save_for_forward(*theta, *phi)
        ctx.evidence = values, met

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        call: Call[Any, Any] = ctx.call
        point: Tensors = ctx.saved_tensors
        count, size = call.problem.counts
        needed = tuple(ctx.needs_input_grad[1 : 1 + count])
        values, met = ctx.evidence

        def back(*cotangents: Tensor) -> Tensors:
            c = flatten(cotangents, values.shape)
            _, *gradients = pull_node(call, needed, values, met, point, c)
            return tuple(gradients)

        served = iter(over_batched_cotangents(back, cotangents[:size]))
        parts = (next(served) if need else None for need in needed)
        return None, *parts, *(None for _ in range(size))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        call: Call[Any, Any] = ctx.call
        point: Tensors = ctx.saved_tensors
        count, _ = call.problem.counts
        moved = filled(tangents[1 : 1 + count], point[:count])
        values, met = ctx.evidence
        mixed = derivative(call.problem, point, [Direction(theta=moved)])
        c = -flatten(mixed[count:], values.shape)
        v, *_ = pull_node(call.anew(), (False,) * count, values, met, point, c)
        return *unflatten(v, point[count:]), None, None

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
        met: Tensor | None,
        *tensors: Tensor,
    ) -> Tensors:
        theta, phi = call.problem.trees(tensors[:-1])
        start = call.start
        with resumed(call.problem.checks):
            first = None
            if start is not None:
                first = partial(vector_of, start, phi, "start")
            gradients, certificate = pull(
                call.problem.lower,
                theta,
                phi,
                lambda batch: tensors[-1],
                solver=call.solver,
                curvature=call.curvature,
                start=first,
                needed=needed,
                values=values,
            )
        call.watch(replace(certificate, by=call.by, lower_converged=met))
        return certificate.adjoint.x, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.call, ctx.needed, ctx.values, ctx.met, *tensors = inputs
        ctx.save_for_backward(*tensors[:-1], output[0])
        ctx.save_for_forward(*tensors[:-1], output[0])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
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
            w, *_ = pull_node(call.anew(), none, ctx.values, ctx.met, point, own)
            along = [
                Direction(phi=phi_parts(call.problem, point, v)),
                Direction(s, phi_parts(call.problem, point, w)),
            ]
            third = derivative(call.problem, point, along)
            return *(-part for part in third), w

        grads = over_batched_cotangents(back, cotangents)
        return None, None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        call: Call[Any, Any] = ctx.call
        require_hessian(call.curvature)
        *point, v = ctx.saved_tensors
        count, _ = call.problem.counts
        *moved, dc = filled(tangents[4:], (*point, v))
        along = Direction(tuple(moved[:count]), tuple(moved[count:]))
        fixed = Direction(phi=phi_parts(call.problem, point, v))
        turned = derivative(call.problem, point, [fixed, along])  # (dJ v, dH v)
        c = dc - flatten(turned[count:], v.shape[:-1])
        dv, *_ = pull_node(call.anew(), (False,) * count, ctx.values, ctx.met, point, c)
        pulled = derivative(
            call.problem, point, [Direction(phi=phi_parts(call.problem, point, dv))]
        )
        dg = (-(left + right) for left, right in zip(turned, pulled, strict=True))
        return dv, *(part for part, need in zip(dg, ctx.needed, strict=False) if need)

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
        output = _applied(_Pull, outer, needed, *moved)
        return output, tuple(0 for _ in output)


@dataclass(frozen=True)
class Direction:
    """A direction in (theta, phi): leaves like theta's and like phi's; None is zero."""

    theta: Tensors | None = None
    phi: Tensors | None = None


class _Derivative(torch.autograd.Function):
    """The gradient in (theta, phi) of ``D^k g [d_1, ..., d_k]``, summed over tasks."""

    @staticmethod
    def forward(
        problem: Problem[Any, Any], layout: tuple[tuple[bool, bool], ...], *tensors: Tensor
    ) -> Tensors:
        total = sum(problem.counts)
        along = unpacked(problem, layout, tensors[total:])
        probes = [fresh_leaf(leaf) for leaf in tensors[:total]]
        theta, phi = problem.trees(probes)
        with torch.enable_grad(), full_precision(phi), resumed(problem.checks), explained():
            values, nodes = evaluate_with_graph(problem.lower, theta, phi)
            custom = custom_among(nodes)
            refuse_compiled(custom)
            found = recorded(values, probes, custom)
            for direction in along:
                slope = contracted(problem, found, direction)
                found = recorded(slope, probes, custom)
            for part in found:
                what = "a derivative of the lower objective"
                refuse_not_finite(part.detach().reshape(-1), what, per_task=False)
        return tuple(part.detach() for part in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.problem, ctx.layout, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        problem: Problem[Any, Any] = ctx.problem
        total, count = sum(problem.counts), problem.counts[0]
        tensors: Tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        known = unpacked(problem, ctx.layout, tensors[total:])

        def back(*cotangents: Tensor) -> Tensors:
            new = Direction(cotangents[:count], cotangents[count:])
            grads: list[Tensor] = []
            if any(needs[:total]):
                grads += derivative(problem, tensors[:total], [*known, new])
            else:
                grads += [torch.zeros_like(leaf) for leaf in tensors[:total]]
            for index, direction in enumerate(known):
                others = [*known[:index], new, *known[index + 1 :]]
                parts = derivative(problem, tensors[:total], others)
                grads += parts[:count] if direction.theta is not None else ()
                grads += parts[count:] if direction.phi is not None else ()
            return tuple(grads)

        return None, None, *over_batched_cotangents(back, cotangents)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        problem: Problem[Any, Any] = ctx.problem
        total, count = sum(problem.counts), problem.counts[0]
        tensors: Tensors = ctx.saved_tensors
        known = unpacked(problem, ctx.layout, tensors[total:])
        moved = filled(tangents[2 : 2 + total], tensors[:total])
        at = tensors[:total]
        sums = derivative(problem, at, [*known, Direction(moved[:count], moved[count:])])
        turned = unpacked(problem, ctx.layout, filled(tangents[2 + total :], tensors[total:]))
        for index, direction in enumerate(turned):
            others = [*known[:index], direction, *known[index + 1 :]]
            pairs = zip(sums, derivative(problem, at, others), strict=True)
            sums = tuple(left + right for left, right in pairs)
        return sums

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        problem: Problem[Any, Any],
        layout: tuple[tuple[bool, bool], ...],
        *tensors: Tensor,
    ) -> tuple[Tensors, Any]:
        moved = spread(tensors, dims[2:], info.batch_size)
        outer = problem.mapped()
        output = _applied(_Derivative, outer, layout, *moved)
        return output, tuple(0 for _ in output)


def attach_node(call: Call[Any, Any], *point: Tensor) -> tuple[Any, ...]:
    """``(*phi*, g there, whether the lower solver converged)`` for the leaves of theta and phi."""
    return _applied(_Attach, call, *point)


def _applied(node: Any, *arguments: Any) -> tuple[Any, ...]:
    output: tuple[Any, ...] = node.apply(*arguments)
    return output


class _Constant(torch.autograd.Function):
    """``(theta, start) -> phi`` where the lower solver ends, without a derivative."""

    @staticmethod
    def forward(problem: Problem[Any, Any], by: LowerSolver, *point: Tensor) -> Tensors:
        theta, phi = problem.trees([leaf.detach() for leaf in point])
        with full_precision(phi), resumed(problem.checks):
            return tuple(leaves(by.minimise(problem.lower, theta, phi).phi))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.mark_non_differentiable(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, ...]:
        return tuple(None for _ in ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        return tuple(torch.zeros_like(leaf) for leaf in ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        problem: Problem[Any, Any],
        by: LowerSolver,
        *point: Tensor,
    ) -> tuple[Tensors, Any]:
        moved = spread(point, dims[2:], info.batch_size)
        output = _applied(_Constant, problem.mapped(), by, *moved)
        return output, tuple(0 for _ in output)


def constant_node(problem: Problem[Any, Any], by: LowerSolver, point: Sequence[Tensor]) -> Tensors:
    """The leaves of phi where the lower solver ends, constant under every transform."""
    if not transforming(*point):
        return _Constant.forward(problem, by, *point)
    return _applied(_Constant, problem, by, *point)


def pull_node(
    call: Call[Any, Any],
    needed: tuple[bool, ...],
    values: Tensor,
    met: Tensor | None,
    point: Sequence[Tensor],
    c: Tensor,
) -> Tensors:
    """``_Pull``; without a node where nobody can differentiate it."""
    if torch.is_grad_enabled() or transforming(*point, c):
        return _applied(_Pull, call, needed, values, met, *point, c)
    return _Pull.forward(call, needed, values, met, *point, c)


def derivative(
    problem: Problem[Any, Any], point: Sequence[Tensor], along: Sequence[Direction]
) -> Tensors:
    """``_Derivative`` at a point, of the order of the number of directions."""
    layout = tuple((d.theta is not None, d.phi is not None) for d in along)
    parts = [leaf for d in along for leaf in (*(d.theta or ()), *(d.phi or ()))]
    return _applied(_Derivative, problem, layout, *point, *parts)


def unpacked(
    problem: Problem[Any, Any], layout: Sequence[tuple[bool, bool]], tensors: Sequence[Tensor]
) -> list[Direction]:
    """The directions that a layout and their leaves in a row describe."""
    rest = iter(tensors)
    take = [
        tuple(tuple(next(rest) for _ in range(count)) if has else None for has, count in pair)
        for pair in (zip(part, problem.counts, strict=True) for part in layout)
    ]
    return [Direction(*pair) for pair in take]


def recorded(values: Tensor, probes: Sequence[Tensor], custom: Sequence[str]) -> Tensors:
    """The gradient of the values' sum with its graph; zeros where nothing depends on a probe."""
    if not values.requires_grad:
        return tuple(torch.zeros_like(probe) for probe in probes)
    weights = torch.ones_like(values, requires_grad=bool(custom))
    found = torch.autograd.grad(
        values, probes, weights, create_graph=True, allow_unused=True, materialize_grads=True
    )
    if custom:
        refuse_error_node(found, custom)
    return found


def contracted(problem: Problem[Any, Any], gradient: Sequence[Tensor], along: Direction) -> Tensor:
    """``<gradient, direction>`` over the parts that the direction has."""
    count = problem.counts[0]
    parts = list(zip(gradient[:count], along.theta or (), strict=False))
    parts += list(zip(gradient[count:], along.phi or (), strict=False))
    return torch.stack([(left * right).sum() for left, right in parts]).sum()


def phi_parts(problem: Problem[Any, Any], point: Sequence[Tensor], vector: Tensor) -> Tensors:
    """A vector ``(*batch, n)`` as leaves like phi's."""
    return tuple(unflatten(vector, point[problem.counts[0] :]))


def filled(tangents: Sequence[Tensor | None], like_these: Sequence[Tensor]) -> Tensors:
    """Tangents, zero where there is none."""
    pairs = zip(tangents, like_these, strict=True)
    return tuple(torch.zeros_like(t) if tangent is None else tangent for tangent, t in pairs)


def front(tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor with its mapped dimension first."""
    return tensor if dim is None else tensor.movedim(dim, 0)


def spread(tensors: Sequence[Tensor | None], dims: Sequence[int | None], size: int) -> list[Any]:
    """The tensors with the mapped dimension first, expanded where there is none."""
    return [
        None
        if tensor is None
        else tensor.expand(size, *tensor.shape)
        if dim is None
        else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


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
