"""One upper step of several ranks: each its own tasks, then two sums.

The evidence goes first, with who failed: so no rank steps on a gradient that another could not
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

from metalearn.distributed.world import World
from metalearn.errors import NotFiniteError
from metalearn.training.certificates import Evidence


@dataclass(frozen=True, slots=True)
class Agreed:
    """What all ranks know after the exchange.

    Attributes:
        loss: of all tasks.
        asked: the signal that a rank was sent.
    """

    loss: Float[Tensor, ""]
    asked: signal.Signals | None


def exchanged(
    world: World,
    gradient: Callable[[], Float[Tensor, ""]],
    model: nn.Module,
    evidence: Evidence,
    *,
    named: AbstractContextManager[None],
    asked: signal.Signals | None,
    scaled: bool,
    what: str,
) -> Agreed:
    """Compute this rank's part of an upper gradient and put all ranks' parts together.

    Args:
        world: the ranks, at most as many as tasks.
        gradient: adds the gradient of this rank's `world.share(evidence.tasks)` to the parameters'
            `grad`, gives `evidence` its certificates, and returns the loss: means over these tasks.
        model: whose `grad`, and whose running averages, become those of all tasks.
        evidence: gets the certificates of all tasks, in order.
        named: in which this rank's part is computed and judged; it may say more of what is raised.
        asked: the signal that this rank was sent.
        scaled: whether losses are scaled for float16; infinite gradients are then the scaler's.
        what: this is, "upper step 7" say, for messages.

    Raises:
        RankError: on all ranks, if `gradient` raised or gave NaN or infinity on one of them.
        LostRankError: a rank hangs or is gone.
    """
    own, tasks, seen = world.share(evidence.tasks), evidence.tasks, evidence.seen
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
    except Exception as error:
        problem = error
    # W of each: who failed, who was sent a signal, the losses; then four columns of T tasks
    sent = torch.zeros(3, world.size, dtype=torch.float64)
    rows = torch.zeros(tasks, Evidence.COLUMNS, dtype=torch.float64)
    sent[0, world.rank], sent[1, world.rank] = problem is not None, asked or 0
    if problem is None and loss is not None:
        sent[2, world.rank] = loss.detach()
        found = evidence.since(seen)
        rows[own.start : own.start + len(found)] = found
    count = len(rows) if evidence.seen > seen else 0
    evidence.seen = seen
    table = world.total(torch.cat([sent.flatten(), rows.flatten()]), what).cpu()
    sent, rows = table[: sent.numel()].view_as(sent), table[sent.numel() :].view_as(rows)
    world.refuse_failed([int(bad) for bad in sent[0].tolist()], problem, what)
    evidence.add(rows[:count])
    assert bucket is not None
    bucket = world.total(bucket, f"the hypergradients of {what}")
    summed = _summed(model)
    for values, total in zip(summed, bucket.split([v.numel() for v in summed]), strict=True):
        values.copy_(total.view_as(values))
    strongest = int(sent[1].max())
    return Agreed(sent[2].sum(), signal.Signals(strongest) if strongest else None)


def _summed(model: nn.Module) -> list[Tensor]:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return gradients + [b for b in model.buffers() if b.is_floating_point()]
