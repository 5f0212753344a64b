"""Statistics of a support, by which a transductive backbone can normalise any picture alone.

Shapes: S support images, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.backbones import Norm
from metalearn.methods import Model

_KINDS: Final = ("mean", "variance")


@torch.no_grad()
def statistics(model: Model, support: Float[Tensor, "S C H W"]) -> dict[str, Tensor]:
    """Mean and variance of every channel where the support passes each normalisation, by name."""
    norms = _transductive(model)
    zeros = {f"{n}.mean": torch.zeros_like(norm.bias) for n, norm in norms.items()}
    ones = {f"{n}.variance": torch.ones_like(norm.bias) for n, norm in norms.items()}
    with normalised_by(model, zeros | ones):
        for norm in norms.values():
            norm.momentum = 1.0  # the averages become the statistics of the next pass
            norm.train()
        model.features(support[None], len(support))
        found = {
            f"{name}.{kind}": getattr(norm, kind).clone()
            for name, norm in norms.items()
            for kind in _KINDS
        }
        for norm in norms.values():
            del norm.momentum
            norm.eval()
    return found


@contextmanager
def normalised_by(model: Model, found: Mapping[str, Tensor]) -> Iterator[None]:
    """While it is open, transductive normalisations of a model use these statistics instead."""
    norms = _transductive(model)
    try:
        for name, norm in norms.items():
            norm.mode = "stored"
            for kind in _KINDS:
                norm.register_buffer(kind, found[f"{name}.{kind}"].detach().clone())
        yield
    finally:
        for norm in norms.values():
            norm.mode = "transductive"
            for kind in _KINDS:
                norm._buffers.pop(kind, None)


def _transductive(model: Model) -> dict[str, Norm]:
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, Norm) and part.mode == "transductive"
    }
