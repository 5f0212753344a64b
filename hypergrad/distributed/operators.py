"""The two operators between what all ranks hold alike and what each rank has of its own.

With P ranks let x be *alike* (the same values on each) and y_r a rank's *own*. A loss that is alike
has a derivative in x that is alike, and one in each y_r that is that rank's own.

- ``shared`` takes x to each rank's own computation: the identity. The loss depends on x through
  every rank, so that the derivative is the sum of the ranks': backward sums over them.
- ``total`` takes own y_r to their sum, which is alike. Each y_r enters it once: backward is the
  identity.

So each is the other's transpose. Derivative rules are made of the operators themselves: backward of
``shared`` is ``total`` and the reverse, in forward mode each is itself, and so there is no highest
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from hypergrad.distributed.agreement import require_equal, require_group
from hypergrad.engine import filled
from hypergrad.implicit.derivatives import applied
from hypergrad.transforms import one_by_one
from hypergrad.tree import AnyTree, check_tree, flatten, leaves, like, names, unflatten

Group: TypeAlias = dist.ProcessGroup | None
"""A process group; None is all ranks."""
Tensors: TypeAlias = tuple[Tensor, ...]

PHI_ALIKE = (
    "Let one rank give its values to all (torch.distributed.broadcast), and let all change them by "
    "the same gradient: a gradient that is of a rank's own data is summed over the ranks first."
)
LOSS_ALIKE = (
    "If each rank has its own part of the upper loss, pass phi through "
    "hypergrad.distributed.shared(phi) before that loss, so that the ranks' derivatives are summed."
)


def shared(tree: AnyTree, *, group: Group = None) -> AnyTree:
    """Pass on a value that all ranks hold alike to each rank's own part; backward sums over them.

    Use it for the minimiser where each rank has its own part of the upper loss, and for whatever an
    objective or condition of your own applies to a rank's own data.

    Args:
        tree: tensors, the same on each rank of the group.
        group: the ranks; None is all.

    Returns:
        A tree with the same values.

    Raises:
        InputError: no tree of tensors, or this process is no rank of the group.
        RankError: the ranks do not hold the same bits.
    """
    check_tree(tree, "what is shared")
    require_group(group)
    parts = leaves(tree)
    check_alike(group, parts, names(tree, "what is shared"))
    return like(tree, shared_node(group, parts))


def total(tree: AnyTree, *, group: Group = None) -> AnyTree:
    """The sum over the ranks of each one's tensors; its backward is the identity.

    Args:
        tree: tensors of a rank's own, with the same shapes on each rank of the group.
        group: the ranks; None is all.

    Returns:
        A tree of the sums, the same on each rank.

    Raises:
        InputError: no tree of tensors, or this process is no rank of the group.
        RankError: in backward, if the derivative that comes is not the same on each rank.
    """
    check_tree(tree, "what is summed")
    require_group(group)
    return like(tree, guarded(group, total_node(group, leaves(tree)), "a derivative of the total"))


def shared_node(group: Group, tensors: Sequence[Tensor]) -> Tensors:
    """``shared`` without a look at the values."""
    return applied(_Shared, group, *tensors)


def total_node(group: Group, tensors: Sequence[Tensor]) -> Tensors:
    """``total``, whatever derivative comes; all tensors travel in one message."""
    return applied(_Total, group, *tensors)


def guarded(group: Group, tensors: Sequence[Tensor], what: str) -> Tensors:
    """The same tensors; backward raises unless their derivatives are the same on each rank."""
    return applied(_Guarded, group, what, *tensors)


def check_alike(
    group: Group, tensors: Sequence[Tensor], labels: Sequence[str], instead: str = PHI_ALIKE
) -> None:
    """Raise unless the ranks hold the same bits, under every transform.

    Raises:
        RankError: naming the tensor.
    """
    applied(_Alike, group, tuple(labels), instead, *(tensor.detach() for tensor in tensors))


class _Shared(torch.autograd.Function):
    """The identity on tensors that all ranks hold alike."""

    @staticmethod
    def forward(group: Group, *tensors: Tensor) -> Tensors:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.group, *tensors = inputs
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        return None, *one_by_one(lambda *own: total_node(ctx.group, own), cotangents)

    @staticmethod
    def jvp(ctx: Any, none: None, *tangents: Any) -> Tensors:
        moved = filled(tangents, ctx.saved_tensors)
        return one_by_one(lambda *alike: shared_node(ctx.group, alike), moved)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], group: Group, *tensors: Tensor
    ) -> tuple[Tensors, Any]:
        return shared_node(group, tensors), dims[1:]


class _Total(torch.autograd.Function):
    """The sums over the ranks."""

    @staticmethod
    def forward(group: Group, *tensors: Tensor) -> Tensors:
        # one message; in 32 bits at least, which flatten sees to
        message = flatten([tensor.reshape(-1) for tensor in tensors], torch.Size())
        message = message.detach().clone()
        dist.all_reduce(message, group=group)
        return tuple(unflatten(message, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.group, *tensors = inputs
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        return None, *one_by_one(lambda *alike: shared_node(ctx.group, alike), cotangents)

    @staticmethod
    def jvp(ctx: Any, none: None, *tangents: Any) -> Tensors:
        moved = filled(tangents, ctx.saved_tensors)
        return one_by_one(lambda *own: total_node(ctx.group, own), moved)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], group: Group, *tensors: Tensor
    ) -> tuple[Tensors, Any]:
        # the mapped dimension first: it may lie elsewhere on another rank
        moved = _mapped_first(tensors, dims[1:])
        return total_node(group, moved), tuple(None if dim is None else 0 for dim in dims[1:])


class _Guarded(torch.autograd.Function):
    """The identity, whose cotangents must be alike."""

    @staticmethod
    def forward(group: Group, what: str, *tensors: Tensor) -> Tensors:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.group, ctx.what, *tensors = inputs
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        def back(*alike: Tensor) -> Tensors:
            labels = [f"{ctx.what} ({index})" for index in range(len(alike))]
            check_alike(ctx.group, alike, labels, LOSS_ALIKE)
            return alike

        return None, None, *one_by_one(back, cotangents)

    @staticmethod
    def jvp(ctx: Any, group: None, what: None, *tangents: Any) -> Tensors:
        moved = filled(tangents, ctx.saved_tensors)
        return one_by_one(lambda *alike: guarded(ctx.group, alike, ctx.what), moved)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[Any, ...], group: Group, what: str, *tensors: Tensor
    ) -> tuple[Tensors, Any]:
        return guarded(group, tensors, what), dims[2:]


class _Alike(torch.autograd.Function):
    """A check of the ranks' tensors, as a node, since nodes see plain tensors."""

    @staticmethod
    def forward(group: Group, labels: tuple[str, ...], instead: str, *tensors: Tensor) -> Tensors:
        require_equal(group, dict(zip(labels, tensors, strict=True)), instead=instead)
        return (tensors[0].new_zeros(()),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[None, ...]:
        return tuple(None for _ in ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[None]:
        return (None,)

    @staticmethod
    def vmap(
        info: Any,
        dims: tuple[Any, ...],
        group: Group,
        labels: tuple[str, ...],
        instead: str,
        *tensors: Tensor,
    ) -> tuple[Tensors, Any]:
        check_alike(group, _mapped_first(tensors, dims[3:]), labels, instead)
        return (tensors[0].new_zeros(()),), (None,)


def _mapped_first(tensors: Sequence[Tensor], dims: Sequence[int | None]) -> list[Tensor]:
    return [t if dim is None else t.movedim(dim, 0) for t, dim in zip(tensors, dims, strict=True)]
