"""Forward-mode differentiation of the lower steps, for few upper variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from hypergrad.adjoints import refuse_start_with_grad, unrollable
from hypergrad.implicit.attach import refuse_twice
from hypergrad.implicit.certificate import Watch
from hypergrad.lower.minimum import LowerSolver
from hypergrad.objective import Objective, custom_functions, fresh_leaf, refuse_error_node
from hypergrad.tree import Phi, Theta, detach, leaves, like


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
        self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi, by: LowerSolver, watch: Watch
    ) -> Phi:
        """See :class:`Adjoint`; ``by`` must have differentiable steps.

        Raises:
            InputError: phi0 requires grad, or ``by`` has no differentiable step.
            DoubleBackwardError: in backward, if a second derivative is asked for.
        """
        refuse_start_with_grad(phi, self)
        solver = unrollable(by, self)
        wanted = [leaf for leaf in leaves(theta) if leaf.requires_grad]
        if not wanted or not torch.is_grad_enabled():
            return by.minimise(lower, theta, phi).phi
        seeds = _seeds(wanted)
        state = leaves(detach(phi))
        tangents: list[Tensor | None] = [None] * len(state)
        for _ in range(solver.max_steps):
            # fresh leaves, so that one step's graph lives at a time
            upper = [fresh_leaf(leaf, requires_grad=leaf.requires_grad) for leaf in leaves(theta)]
            given = [
                fresh_leaf(tensor, requires_grad=tangent is not None)
                for tensor, tangent in zip(state, tangents, strict=True)
            ]
            count = len(leaves(phi))
            moved, memory = solver.step(
                lower, like(theta, upper), like(phi, given[:count]), tuple(given[count:])
            )
            outputs = leaves(moved) + list(memory)
            inputs = [leaf for leaf in upper if leaf.requires_grad]
            inputs += [leaf for leaf in given if leaf.requires_grad]
            known = [tangent for tangent in tangents if tangent is not None]
            tangents = _push(outputs, inputs, seeds + known)
            state = [tensor.detach() for tensor in outputs]
        found = state[: len(leaves(phi))]
        columns = [
            leaf.new_zeros(len(seeds[0]), *leaf.shape) if tangent is None else tangent
            for leaf, tangent in zip(found, tangents, strict=False)
        ]
        node: Callable[..., tuple[Tensor, ...]] = _Columns.apply
        return like(phi, node(found, columns, *wanted))


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
    with torch.enable_grad():
        pulled = torch.autograd.grad(moving, inputs, probes, create_graph=True, allow_unused=True)
    links: Sequence[Tensor | None] = pulled  # None where no output depends on the input
    custom = sorted({name for tensor in moving for name in custom_functions(tensor)})
    if custom:
        refuse_error_node(links, custom)
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
    """A point with its known Jacobian: backward is a matrix product. Once differentiable."""

    @staticmethod
    def forward(
        ctx: Any, found: list[Tensor], columns: list[Tensor], *theta: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.columns = columns
        ctx.save_for_backward(*theta)
        return tuple(leaf.clone() for leaf in found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        theta = cast(tuple[Tensor, ...], ctx.saved_tensors)
        products = [
            column.reshape(len(column), -1) @ cotangent.reshape(-1)
            for column, cotangent in zip(ctx.columns, cotangents, strict=True)
        ]
        parts = torch.stack(products).sum(0).split([leaf.numel() for leaf in theta])
        grads = [part.reshape(leaf.shape) for part, leaf in zip(parts, theta, strict=True)]
        if torch.is_grad_enabled():  # backward was called with create_graph=True
            grads = refuse_twice(grads, [*theta, *cotangents])
        return None, None, *grads
