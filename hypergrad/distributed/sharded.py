"""A lower objective that is the weighted mean of one part on each rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Generic

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.distributed.agreement import (
    any_rank,
    digest,
    highest,
    require_equal,
    require_group,
)
from hypergrad.distributed.operators import (
    LOSS_ALIKE,
    Group,
    Tensors,
    check_alike,
    guarded,
    shared_node,
    total_node,
)
from hypergrad.engine import filled
from hypergrad.errors import InputError, RankError
from hypergrad.graph import leaves_reached, nodes_of
from hypergrad.implicit.derivatives import applied
from hypergrad.objective import Objective, raise_if_captured
from hypergrad.transforms import one_by_one, transforming
from hypergrad.tree import Phi, Theta, Tree, entries, leaves, like, names

_OWN_SUMS = (
    " If d g/d phi or v differs, a sum over the ranks is missing: one that the lower objective "
    "takes by itself goes through hypergrad.distributed.total."
)


@dataclass(frozen=True, eq=False)
class Sharded(Generic[Theta, Phi]):
    """``g(theta, phi) = sum_r w_r g_r(theta, phi) / sum_r w_r``, rank r holding the data of g_r.

    Takes the lower objective's place on every rank: values, gradients, products with H and J, and
    so lower solvers, adjoints and the certificate, are those of all data, and the same on each
    rank. All ranks must make the same calls in the same order. phi is whole on each rank; what is
    checked, at little cost, is that they hold the same bits of it, of theta, of the upper loss's
    derivative in phi, and of the answer.

    One evaluation takes three messages, two of them of a few numbers; a product with H takes one,
    of phi's size.

    Attributes:
        lower: g_r, one value for each task, the same tasks on each rank. With ``weight`` the number
            of this rank's examples it is the mean over them, plus any regulariser.
        weight: w_r, at least 0, not 0 on all ranks. A part of weight 0 adds nothing, whatever its
            values: a rank without rows has NaN, the mean of nothing.
        own: true for a leaf of theta that is this rank's own: for every leaf, or a tree like theta
            of bools. The derivative in an own leaf is that of this rank's part alone. That is right
            for what no other rank uses (a weight for each example here, features of them), and for
            whatever DDP, FSDP2 or a sum of your own adds up over the ranks afterwards.
        group: the ranks; None is all.
    """

    lower: Objective[Theta, Phi]
    weight: float | int = field(default=1.0, kw_only=True)
    own: Tree = field(default=False, kw_only=True)
    group: Group = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        lower: object = self.lower
        if isinstance(lower, type) or not callable(lower):
            given = f"the class {lower.__name__}" if isinstance(lower, type) else repr(lower)
            raise InputError(
                f"Sharded got lower={given}; give this rank's part, a function of (theta, phi) "
                "that returns one value for each task."
            )
        if not 0 <= self.weight < inf:
            raise InputError(
                f"Sharded got weight={self.weight}; it must be at least 0, and finite: the number "
                "of this rank's examples, say."
            )

    def __call__(self, theta: Theta, phi: Phi) -> Float[Tensor, "*batch"]:
        """The values of the whole lower level.

        Raises:
            InputError: this process is no rank of the group, or ``own`` is not like theta.
            RankError: the ranks' phi or theta differ, or another rank's part raised.
        """
        own = self._owned(theta)
        require_group(self.group)
        alike = [leaf for leaf, mine in zip(leaves(theta), own, strict=True) if not mine]
        labels = [label for label, mine in zip(names(theta, "theta"), own, strict=True) if not mine]
        points = leaves(phi)
        check_alike(self.group, [*points, *alike], [*names(phi, "phi"), *labels])
        # two nodes: a product with H needs none of theta's sums
        spread = iter(shared_node(self.group, alike) if alike else ())
        upper = [
            leaf if mine else next(spread) for leaf, mine in zip(leaves(theta), own, strict=True)
        ]
        inputs = [leaf.view_as(leaf) for leaf in (*upper, *shared_node(self.group, points))]
        here = like(theta, inputs[: len(upper)]), like(phi, inputs[len(upper) :])
        failed: Exception | None = None
        values, used = inputs[-1].new_zeros(()), [False] * len(inputs)
        try:
            values, used = _evaluated(self.lower, here, inputs)
            if not self.weight:  # a mean over no rows is 0/0: nothing may be multiplied with it
                values, used = torch.zeros_like(values.detach()), [False] * len(inputs)
        except Exception as error:  # whatever it is: the other ranks must not wait for this one
            failed = error
        used = self._agree(failed, values, used)
        joined = [leaf for leaf, use in zip(inputs, used, strict=True) if use]
        if joined:
            (values,) = applied(_Joined, values, *joined)
        weight = values.new_full((), self.weight)
        sums, weights = total_node(self.group, (values * weight, weight))
        return sums / weights.detach()

    def require_alike(self, named: Mapping[str, Tensor]) -> None:
        """See :class:`hypergrad.objective.AcrossRanks`."""
        require_equal(self.group, named, instead=LOSS_ALIKE + _OWN_SUMS)

    def on_any(self, flag: bool, device: torch.device) -> bool:
        """See :class:`hypergrad.objective.AcrossRanks`."""
        return any_rank(self.group, flag, device)

    def guarded(self, phi: Phi) -> Phi:
        """See :class:`hypergrad.objective.AcrossRanks`."""
        what = "the derivative of the upper loss in phi"
        return like(phi, guarded(self.group, leaves(phi), what))

    def _owned(self, theta: Theta) -> list[bool]:
        """Mark the leaves of theta that are the rank's own.

        Raises:
            InputError: ``own`` is neither a bool nor a tree of bools like theta.
        """
        count = len(leaves(theta))
        given = [self.own] * count if isinstance(self.own, bool) else entries(self.own)
        if len(given) != count or not all(isinstance(entry, bool) for entry in given):
            raise InputError(
                f"Sharded got own={self.own}; give True or False, or a tree of them like theta, "
                f"whose leaves are {', '.join(names(theta, 'theta'))}."
            )
        return given

    def _agree(self, failed: Exception | None, values: Tensor, used: Sequence[bool]) -> list[bool]:
        """Leaves that some rank's part uses.

        Raises:
            RankError: the part of another rank raised, or its values have another shape.
        """
        mine = 0 if failed is None else 1 + torch.distributed.get_rank(self.group)
        shape = digest(f"{tuple(values.shape)} {values.dtype}")
        flagged = torch.tensor([mine, shape, ~shape, *used], device=values.device)
        failing, most, least, *flags = highest(self.group, flagged).tolist()
        if failed is not None:
            raise failed
        if failing:
            raise RankError(
                f"the part of the lower objective on rank {failing - 1} of the group raised an "
                "exception, which stands in that rank's own output; this rank's part did not."
            )
        if most != ~least:
            raise RankError(
                f"the ranks' parts of the lower objective return values of different shapes or "
                f"dtypes, here {tuple(values.shape)} of {values.dtype}; each must return one value "
                "for each task, the same tasks on every rank."
            )
        return [bool(flag) for flag in flags]


def _evaluated(
    part: Objective[Any, Any], here: tuple[Any, Any], inputs: Sequence[Tensor]
) -> tuple[Tensor, list[bool]]:
    """A rank's part there, and which inputs its values depend on.

    Raises:
        InputError: the part returned no floating-point tensor, or captures one that requires grad.
    """
    values = part(*here)
    answer: object = values  # users' objectives are checked, not believed
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        given = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(
            f"this rank's part of the lower objective returned {given}; it must return a "
            "floating-point tensor with one value for each task."
        )
    if transforming(*inputs):  # hides the graph
        return values, [True] * len(inputs)
    strange = leaves_reached(values, nodes_of(values, within=inputs))
    if strange:
        raise_if_captured(part, *here, "the lower objective", list(strange.values()))
    nodes = nodes_of(values)
    return values, [leaf.requires_grad and leaf.grad_fn in nodes for leaf in inputs]


class _Joined(torch.autograd.Function):
    """The first tensor, whose derivatives of any order depend on all the others: they are zero.

    A rank's part may not use what another's does. Backward would then reach ``shared`` on one rank
    and not on the other, and each would wait for the other for ever.
    """

    @staticmethod
    def forward(values: Tensor, *others: Tensor) -> Tensors:
        return (values.view_as(values),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> tuple[Tensor, ...]:
        return cotangent, *applied(_Zeros, *ctx.saved_tensors[1:])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        return applied(_Joined, *filled(tangents, ctx.saved_tensors))

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensors, Any]:
        return applied(_Joined, *tensors), (dims[0],)


class _Zeros(torch.autograd.Function):
    """Zeros like the tensors, that depend on them."""

    @staticmethod
    def forward(*tensors: Tensor) -> Tensors:
        return tuple(torch.zeros_like(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Tensors:
        return one_by_one(lambda *_: applied(_Zeros, *ctx.saved_tensors), cotangents)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        return applied(_Zeros, *filled(tangents, ctx.saved_tensors))

    @staticmethod
    def vmap(info: Any, dims: tuple[Any, ...], *tensors: Tensor) -> tuple[Tensors, Any]:
        return applied(_Zeros, *tensors), dims
