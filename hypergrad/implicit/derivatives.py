"""Derivatives of the lower objective of any order, as one autograd node.

The node is the gradient in (theta, phi) of ``D^k g [d_1, ..., d_k]``, for directions d_i in
(theta, phi). It is multilinear and symmetric in the directions, so that its derivative of any kind
is itself: of order k + 1, or in another direction. ``J v`` and ``H v`` are its two parts for the
one direction (0, v).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias

import torch
from torch import Tensor

from hypergrad.engine import filled
from hypergrad.equation import called
from hypergrad.graph import custom_among, explained, raise_if_compiled, raise_if_error_node
from hypergrad.guards import Deferred, require_finite, resumed
from hypergrad.implicit.mapped import mapped
from hypergrad.objective import Objective, evaluate_with_graph
from hypergrad.transforms import one_by_one, raise_if_captured, raise_if_forward_twice
from hypergrad.tree import Phi, Theta, fresh_leaf, full_precision, leaves, like

Tensors: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
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
        raise_if_captured(self.lower)  # a mapped one looks like its copies later
        own = [True] * self.counts[0] if in_theta is None else in_theta
        return replace(self, lower=mapped(self.lower, own))


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in (theta, phi): leaves like theta's and like phi's, or None for zero."""

    theta: Tensors | None = None
    phi: Tensors | None = None


def derivative(
    problem: Problem[Any, Any], point: Sequence[Tensor], along: Sequence[Direction]
) -> Tensors:
    """``_Derivative`` at a point, of the order of the number of directions."""
    layout = tuple((d.theta is not None, d.phi is not None) for d in along)
    parts = [leaf for d in along for leaf in (*(d.theta or ()), *(d.phi or ()))]
    return applied(_Derivative, problem, layout, *point, *parts)


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
            raise_if_compiled(custom)
            found = recorded(values, probes, custom)
            for direction in along:
                slope = contracted(problem, found, direction)
                found = recorded(slope, probes, custom)
            for part in found:
                what = f"a derivative of {called(problem.lower)}"
                require_finite(part.detach().reshape(-1), what, per_task=False)
        return tuple(part.detach() for part in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.problem, ctx.layout, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        problem: Problem[Any, Any] = ctx.problem
        total, count = sum(problem.counts), problem.counts[0]
        tensors: Tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        known = unpacked(problem, ctx.layout, tensors[total:])

        def back(*cotangents: Any) -> Tensors:
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

        return None, None, *one_by_one(back, cotangents)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        problem: Problem[Any, Any] = ctx.problem
        total, count = sum(problem.counts), problem.counts[0]
        tensors: Tensors = ctx.saved_tensors
        known = unpacked(problem, ctx.layout, tensors[total:])
        at = tensors[:total]
        raise_if_forward_twice()

        def push(*moved: Tensor) -> Tensors:
            new = Direction(moved[:count], moved[count:total])
            sums = derivative(problem, at, [*known, new])
            turned = unpacked(problem, ctx.layout, moved[total:])
            for index, direction in enumerate(turned):
                others = [*known[:index], direction, *known[index + 1 :]]
                pairs = zip(sums, derivative(problem, at, others), strict=True)
                sums = tuple(left + right for left, right in pairs)
            return sums

        return one_by_one(push, filled(tangents[2:], tensors))

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
        output = applied(_Derivative, outer, layout, *moved)
        return output, tuple(0 for _ in output)


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
        raise_if_error_node(found, custom)
    return found


def contracted(problem: Problem[Any, Any], gradient: Sequence[Tensor], along: Direction) -> Tensor:
    """``<gradient, direction>`` over the parts that the direction has."""
    count = problem.counts[0]
    parts = list(zip(gradient[:count], along.theta or (), strict=False))
    parts += list(zip(gradient[count:], along.phi or (), strict=False))
    return torch.stack([(left * right).sum() for left, right in parts]).sum()


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


def applied(node: Any, *arguments: Any) -> tuple[Any, ...]:
    """The node's output."""
    output: tuple[Any, ...] = node.apply(*arguments)
    return output
