"""One upper step of several ranks: each its own tasks, then two sums.

The certificates go first, with who failed: so no rank steps on a gradient that another could not
compute, none raises alone and none waits for one that has left. Then all hypergradients in one
bucket. Both are the same bits on every rank, and so are the weights after any optimiser's step.

Shapes: W ranks, T tasks of the step.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.backbones import Norm
from metalearn.distributed.world import World
from metalearn.errors import NotFiniteError
from metalearn.training.certificates import Certificates


@dataclass(frozen=True, slots=True, eq=False)
class Agreed:
    """The outcome of a step, the same on all ranks.

    Attributes:
        loss: mean over all tasks.
        asked: the signal that a rank was sent.
    """

    loss: Float[Tensor, ""]
    asked: signal.Signals | None


def exchanged(
    world: World,
    gradient: Callable[[], Float[Tensor, ""]],
    model: nn.Module,
    certificates: Certificates,
    *,
    named: AbstractContextManager[None],
    asked: signal.Signals | None,
    scaled: bool,
    what: str,
) -> Agreed:
    """Compute this rank's part of an upper gradient and put all ranks' parts together.

    Args:
        world: the ranks, at most as many as tasks.
        gradient: adds the gradient of this rank's `world.share(certificates.tasks)` to the
            parameters' `grad`, appends to `certificates`, and returns the loss: means over these
            tasks.
        model: its `grad` and its running averages become those of all tasks.
        certificates: gets those of all tasks, in order.
        named: context of this rank's part; may add to what is raised there.
        asked: the signal that this rank was sent.
        scaled: losses are scaled for float16; the scaler then handles infinite gradients.
        what: this is, "upper step 7" say, for messages.

    Raises:
        RankError: on all ranks, if `gradient` raised or gave NaN or infinity on one of them.
        LostRankError: a rank hangs or is gone.
    """
    own, tasks, seen = world.share(certificates.tasks), certificates.tasks, certificates.seen
    part = len(own) / tasks
    loss, bucket, problem = None, None, None
    try:
        with named:
            loss = gradient() * part
            # Each rank's mean over its tasks counts by their part of all. So do running averages,
            # which move by a part of what was seen: their sum has moved by what all have seen.
            bucket = torch.cat([values.flatten() for values in _summed(model)]).mul_(part)
            if not bool(loss.isfinite()):
                raise NotFiniteError(f"the loss is {loss.item()}: lower the learning rate.")
            if not (scaled or bool(bucket.isfinite().all())):
                raise NotFiniteError(
                    "the hypergradient is NaN or infinite: lower the learning rate."
                )
    except Exception as error:  # whatever it is: the other ranks must not wait for this one
        problem = error
    # W of each: who failed, who was sent a signal, the losses; then four columns of T tasks
    sent = torch.zeros(3, world.size, dtype=torch.float64)
    rows = torch.zeros(tasks, Certificates.COLUMNS, dtype=torch.float64)
    sent[0, world.rank], sent[1, world.rank] = problem is not None, asked or 0
    if problem is None and loss is not None:
        sent[2, world.rank] = loss.detach()
        found = certificates.since(seen)
        rows[own.start : own.start + len(found)] = found
    count = len(rows) if certificates.seen > seen else 0
    certificates.seen = seen
    table = world.total(torch.cat([sent.flatten(), rows.flatten()]), what).cpu()
    sent, rows = table[: sent.numel()].view_as(sent), table[sent.numel() :].view_as(rows)
    world.raise_if_failed([int(bad) for bad in sent[0].tolist()], problem, what)
    certificates.add(rows[:count])
    assert bucket is not None
    bucket = world.total(bucket, f"the hypergradients of {what}")
    summed = _summed(model)
    for values, total in zip(summed, bucket.split([v.numel() for v in summed]), strict=True):
        values.copy_(total.view_as(values))
    strongest = int(sent[1].max())
    return Agreed(sent[2].sum(), signal.Signals(strongest) if strongest else None)


def _summed(model: nn.Module) -> list[Tensor]:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norms = (part for part in model.modules() if isinstance(part, Norm))
    # other buffers are constants, which a sum of parts would round
    return gradients + [average for norm in norms for average in norm.buffers()]
