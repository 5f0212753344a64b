"""Interface of a feature extractor, and blocks that compute their activations again.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels,
D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from metalearn.backbones.norm import Norm


@runtime_checkable
class Backbone(Protocol):
    """A module that turns the images of T tasks into features, no task seeing another.

    Attributes:
        features: D.
        recompute: compute activations again in backward instead of keeping them.
    """

    features: int
    recompute: bool

    def __call__(self, images: Float[Tensor, "T n C H W"], support: int) -> Float[Tensor, "T n D"]:
        """Features of all images, the first `support` of each task being its support."""
        ...


def rerun(block: Callable[[Tensor], Tensor], x: Tensor, *, owner: nn.Module) -> Tensor:
    """`block(x)`, of whose activations only x is kept: backward runs the block again.

    The second run draws the same random numbers from torch's own generators, which are put back,
    and running statistics take no notice of it. A generator that the block holds itself is not put
    back: its second run would draw others.

    Args:
        block: a backbone, or part of one.
        x: the block's input.
        owner: the module that holds the block's norms.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), unnoticed(owner)

    answer: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return answer


@contextmanager
def unnoticed(owner: nn.Module) -> Iterator[None]:
    """While it is open, the module's norms update no running statistics."""
    norms = [part for part in owner.modules() if isinstance(part, Norm)]
    own = [part for part in owner.modules() if isinstance(part, _BatchNorm)]
    with ExitStack() as before:
        for norm in norms:
            before.callback(setattr, norm, "noticing", norm.noticing)
            norm.noticing = False
        for part in own:
            # averages move by nothing: without them other tensors would be saved for backward
            before.callback(setattr, part, "momentum", part.momentum)
            part.momentum = 0.0
            if part.num_batches_tracked is not None:
                before.callback(part.num_batches_tracked.copy_, part.num_batches_tracked.clone())
        yield


def keeps(recompute: bool) -> bool:
    """False if there is a graph whose activations are computed again."""
    return not (recompute and torch.is_grad_enabled())
