"""Interface of a feature extractor, and blocks that compute their activations again.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels,
D features.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
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

    The second run draws the same random numbers (torch's own generators are put back), and
    running statistics take no notice of it.

    Args:
        block: a backbone, or part of one.
        x: the block's input.
        owner: the module whose `Norm`s the block uses.
    """
    norms = [part for part in owner.modules() if isinstance(part, Norm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _Unnoticed(norms)

    answer: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return answer


class _Unnoticed(ExitStack):
    """While it is open, the norms update no running statistics."""

    def __init__(self, norms: list[Norm]) -> None:
        super().__init__()
        self._norms = norms

    def __enter__(self) -> None:  # type: ignore[override]
        for norm in self._norms:
            self.callback(setattr, norm, "noticing", norm.noticing)
            norm.noticing = False


def keeps(recompute: bool) -> bool:
    """False if there is a graph whose activations are computed again."""
    return not (recompute and torch.is_grad_enabled())
