"""The order of an image's numbers in memory, which decides how fast a CPU goes through them."""

from __future__ import annotations

import torch
from torch import nn

from metalearn.backbones import Conv4
from metalearn.methods import ImplicitMaml, Maml, Method


def channels_last_is_faster(backbone: nn.Module, method: Method, device: torch.device) -> bool:
    """Whether it is, as far as it was measured (docs/performance.md).

    On a CPU a Conv4's pass takes half the time channels-last, most of it saved in pooling and
    normalisation, whose second derivatives are the faster channels-first. ResNet-12 and CUDA were
    not measured.
    """
    second = isinstance(method, Maml) and not method.first_order
    twice = second or isinstance(method, ImplicitMaml)
    return device.type == "cpu" and isinstance(backbone, Conv4) and not twice


def lay_out(model: nn.Module, *, channels_last: bool) -> None:
    """Put the convolutions, and with them their images, channels-last or channels-first.

    Args:
        model: what holds the convolutions; changed in place.
        channels_last: which.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=layout)
