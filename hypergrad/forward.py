"""Forward-mode differentiation of the lower steps, for few upper variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from hypergrad.adjoints import Condition, Solver, require_start_without_grad, unrollable
from hypergrad.engine import filled
from hypergrad.errors import DoubleBackwardError
from hypergrad.graph import (
    custom_functions,
    explained,
    leaves_reached,
    nodes_of,
    raise_if_error_node,
)
from hypergrad.guards import current_checks, resumed
from hypergrad.implicit.derivatives import Problem, spread
from hypergrad.implicit.watch import Watch
from hypergrad.lower.descent import raise_if_step_captured
from hypergrad.lower.minimum import Unrollable
from hypergrad.transforms import one_by_one, raise_if_forward_twice, transforming
from hypergrad.tree import Phi, Theta, detach, fresh_leaf, leaves, like


@dataclass(frozen=True, slots=True)
class Forward:
    """Carry dphi_k/dtheta along the K lower steps (Franceschi et al. 2017, forward mode).

    The same derivative as :class:`Unrolled` to round-off, from memory O(p n) for each task
    instead of O(K n), p the number of upper variables that require grad: for few upper variables
    and many steps. Each step costs p Jacobian products, taken together, on top of the step; the
    product is the double-backward trick ``J t = d/du <J'u, t>``, so that the lower objective must
    be three times differentiable by autograd. theta counts whole, tasks' own upper variables
    included: p grows with the number of tasks if theta is per task.

    Like Unrolled it differentiates what K steps give, converged or not, and says nothing to
    ``watch``.
    """

    def minimise(
        self, lower: Condition[Theta, Phi], theta: Theta, phi: Phi, by: Solver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`; ``by`` must have differentiable steps.

        Raises:
            InputError: phi0 requires grad, or ``by`` has no differentiable step.
            DoubleBackwardError: in backward, if a second derivative is asked for.
        """
        require_start_without_grad(phi, self)
        solver, objective = unrollable(by, lower, self)
        moving = transforming(*leaves(theta))
        wanted = tuple(moving or leaf.requires_grad for leaf in leaves(theta))
        if not any(wanted) or not (moving or torch.is_grad_enabled()):
            return solver.minimise(objective, theta, phi).phi
        problem = Problem(objective, detach(theta), detach(phi), current_checks())
        node: Callable[..., tuple[Tensor, ...]] = _Columns.apply
        output = node(problem, solver, wanted, *leaves(theta), *leaves(detach(phi)))
        return like(phi, output[: len(leaves(phi))])


def _carried(
    problem: Problem[Any, Any], solver: Unrollable, wanted: Sequence[bool], point: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The last iterate, and ``(p, *leaf)`` its derivatives in the wanted leaves of theta."""
    theta, phi = problem.trees(point)
    count = len(leaves(phi))
    seeds = _seeds([leaf for leaf, want in zip(leaves(theta), wanted, strict=True) if want])
    state = leaves(phi)
    tangents: list[Tensor | None] = [None] * len(state)
    for index in range(solver.max_steps):
        # fresh leaves, so that one step's graph lives at a time
        upper = [
            fresh_leaf(leaf, requires_grad=want)
            for leaf, want in zip(leaves(theta), wanted, strict=True)
        ]
        given = [
            fresh_leaf(tensor, requires_grad=tangent is not None)
            for tensor, tangent in zip(state, tangents, strict=True)
        ]
        with torch.enable_grad():
            moved, memory = solver.step(
                problem.lower, like(theta, upper), like(phi, given[:count]), tuple(given[count:])
            )
        outputs = leaves(moved) + list(memory)
        if index == 0:
            _raise_if_captured(problem, solver, outputs, [*upper, *given])
        inputs = [leaf for leaf in upper if leaf.requires_grad]
        inputs += [leaf for leaf in given if leaf.requires_grad]
        known = [tangent for tangent in tangents if tangent is not None]
        tangents = _push(outputs, inputs, seeds + known)
        state = [tensor.detach() for tensor in outputs]
    found = state[:count]
    columns = [
        leaf.new_zeros(len(seeds[0]), *leaf.shape) if tangent is None else tangent
        for leaf, tangent in zip(found, tangents, strict=False)
    ]
    return found, columns


def _raise_if_captured(
    problem: Problem[Any, Any],
    solver: Unrollable,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> None:
    """Raise if the step depends on a tensor that requires grad and is none of its inputs.

    Raises:
        InputError: naming the solver.
    """
    own = {id(tensor) for tensor in inputs}
    reached = (leaves_reached(tensor, nodes_of(tensor)) for tensor in outputs)
    if any(key not in own for leaves_of in reached for key in leaves_of):
        # a leaf that the objective makes itself is none either, and no step without inputs has it
        theta = like(problem.theta, [t.detach() for t in inputs[: problem.counts[0]]])
        phi = like(problem.phi, [t.detach() for t in inputs[problem.counts[0] :]])
        raise_if_step_captured(solver, theta, solver.step(problem.lower, theta, phi)[0])


def _seeds(wanted: Sequence[Tensor]) -> list[Tensor]:
    """dtheta/dtheta: for each leaf its part of the p unit vectors, ``(p, *leaf)``."""
    total = sum(leaf.numel() for leaf in wanted)
    unit = torch.eye(total, dtype=wanted[0].dtype, device=wanted[0].device)
    parts = unit.split([leaf.numel() for leaf in wanted], dim=1)
    return [part.reshape(total, *leaf.shape) for part, leaf in zip(parts, wanted, strict=True)]


def _push(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], tangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """Jacobian products: p tangents ``(p, *input)`` of the inputs to those of the outputs.

    None stands for zero. ``J'u`` is linear in u, and its derivative in u is J.
    """
    moving = [tensor for tensor in outputs if tensor.requires_grad]
    probes = [torch.zeros_like(tensor, requires_grad=True) for tensor in moving]
    custom = sorted({name for tensor in moving for name in custom_functions(tensor)})
    with torch.enable_grad(), explained(custom):
        pulled = torch.autograd.grad(moving, inputs, probes, create_graph=True, allow_unused=True)
    links: Sequence[Tensor | None] = pulled  # None where no output depends on the input
    raise_if_error_node(links, custom)
    linear, along = list[Tensor](), list[Tensor]()
    for cotangent, tangent in zip(links, tangents, strict=True):
        if cotangent is not None and cotangent.requires_grad:
            linear.append(cotangent)
            along.append(tangent)
    pushed: Iterator[Tensor | None] = iter([None] * len(moving))
    if linear:
        pushed = iter(
            torch.autograd.grad(linear, probes, along, is_grads_batched=True, allow_unused=True)
        )
    return [next(pushed) if tensor.requires_grad else None for tensor in outputs]


class _Columns(torch.autograd.Function):
    """The last iterate with its known derivative, a matrix for each leaf; differentiable once."""

    @staticmethod
    def forward(
        problem: Problem[Any, Any],
        solver: Unrollable,
        wanted: tuple[bool, ...],
        *point: Tensor,
    ) -> tuple[Tensor, ...]:
        with resumed(problem.checks):
            found, columns = _carried(problem, solver, wanted, point)
        return *(leaf.clone() for leaf in found), *columns

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.problem, _, ctx.wanted, *point = inputs
        count, size = ctx.problem.counts
        ctx.columns = output[size:]
        ctx.mark_non_differentiable(*ctx.columns)
        ctx.save_for_backward(*point[:count])
        ctx.save_for_forward(*point[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        _, size = ctx.problem.counts
        theta = cast(tuple[Tensor, ...], ctx.saved_tensors)
        mine = [leaf for leaf, want in zip(theta, ctx.wanted, strict=True) if want]

        def back(*cotangents: Any) -> tuple[Tensor, ...]:
            products = [
                column.reshape(len(column), -1) @ cotangent.reshape(-1)
                for column, cotangent in zip(ctx.columns, cotangents, strict=True)
            ]
            parts = torch.stack(products).sum(0).split([leaf.numel() for leaf in mine])
            grads = [part.reshape(leaf.shape) for part, leaf in zip(parts, mine, strict=True)]
            return tuple(_once(grads, [*theta, *cotangents]))

        served = iter(one_by_one(back, cotangents[:size]))
        parts = (next(served) if want else None for want in ctx.wanted)
        return None, None, None, *parts, *(None for _ in range(size))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        count, _ = ctx.problem.counts
        theta = cast(tuple[Tensor, ...], ctx.saved_tensors)
        moved = filled(tangents[3 : 3 + count], theta)
        raise_if_forward_twice()

        def push(*moved: Tensor) -> tuple[Tensor, ...]:
            along = torch.cat(
                [part.reshape(-1) for part, want in zip(moved, ctx.wanted, strict=True) if want]
            )
            pushed = [torch.tensordot(along, column, dims=1) for column in ctx.columns]
            return tuple(_once(pushed, [*theta, *moved]))

        return *one_by_one(push, moved), *(None for _ in ctx.columns)

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        problem: Problem[Any, Any],
        solver: Unrollable,
        wanted: tuple[bool, ...],
        *point: Tensor,
    ) -> tuple[Any, Any]:
        # one by one: columns of several problems at once would be those of one great theta
        moved = spread(point, dims[3:], info.batch_size)
        node: Callable[..., tuple[Tensor, ...]] = _Columns.apply
        each = [
            node(problem, solver, wanted, *(part[index] for part in moved))
            for index in range(info.batch_size)
        ]
        output = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
        return output, tuple(0 for _ in output)


def _once(values: Sequence[Tensor], anchors: Sequence[Tensor]) -> list[Tensor]:
    """The same values, which raise when differentiated in the tensors they depend on."""
    if not (torch.is_grad_enabled() or transforming(*anchors)):
        return list(values)
    node: Callable[..., Tensor] = _Once.apply
    return [node(value, *anchors) for value in values]


class _Once(torch.autograd.Function):
    """The identity on its first argument, which can't be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *anchors: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[None, ...]:
        raise _twice()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise _twice()


def _twice() -> DoubleBackwardError:
    return DoubleBackwardError(
        "a second derivative was asked for through Forward(), which carries first derivatives only."
        " Use adjoint=Unrolled() or Implicit(...) for second derivatives."
    )
