"""Feature extractors for all tasks of a batch at once.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels,
D features.
"""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import ConfigError

Normalisation: TypeAlias = Literal["transductive", "group"]
"""Which images an image is normalised with.

`transductive`: batch normalisation by the image's own task, support and query apart, in training
and in testing alike. An answer then depends on the other queries of its task.
`group`: group normalisation, each image by itself (Wu and He 2018).
"""


class Norm(nn.Module):
    """Normalises the channels of images that are ordered by sample, then by task.

    Statistics of each task by itself need no loop and no copy: in this order (S T, C, H, W) is
    also (S, T C, H, W), where a task's channel is a channel, and batch normalisation keeps
    channels apart.
    """

    eps = 1e-5

    def __init__(self, channels: int, *, mode: Normalisation, groups: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mode = mode
        self.groups = groups

    def forward(
        self, x: Float[Tensor, "images C H W"], tasks: int
    ) -> Float[Tensor, "images C H W"]:
        """Normalise samples of `tasks` tasks."""
        if self.mode == "group":
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        apart = x.reshape(-1, tasks * x.shape[1], *x.shape[2:])
        scale, shift = self.weight.repeat(tasks), self.bias.repeat(tasks)
        return F.batch_norm(apart, None, None, scale, shift, True, 0.0, self.eps).view_as(x)


class Conv4(nn.Module):
    """Four blocks of convolution (3x3), normalisation, ReLU and max pooling (2x2).

    Source: Vinyals et al. 2016, section 4.1; Snell et al. 2017. The pooling runs before the ReLU,
    on four times more values than the ReLU then has to touch: both are monotone, so they commute.

    Args:
        filters: channels of every block.
        channels: channels of the images.
        size: side of the images, at least 16 pixels (halved four times).
        normalisation: see `Normalisation`.
        generator: draws the initial weights (He et al. 2015, normal); None: torch's own.

    Raises:
        ConfigError: filters, channels or size too small, or filters not divided by 8 groups.
    """

    def __init__(
        self,
        *,
        filters: int,
        channels: int,
        size: int,
        normalisation: Normalisation = "transductive",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if filters < 1 or channels < 1 or size < 16:
            raise ConfigError(
                f"Conv4 was given {filters} filters, {channels} channels and {size} pixels a side: "
                "it needs at least 1, 1 and 16."
            )
        if normalisation not in get_args(Normalisation):
            raise ConfigError(
                f"normalisation was given as {normalisation!r}: "
                f"it is one of {', '.join(get_args(Normalisation))}."
            )
        if normalisation == "group" and filters % 8:
            raise ConfigError(
                f"group normalisation was given {filters} filters: give a multiple of its 8 groups."
            )
        widths = [channels] + [filters] * 4
        # No bias: the normalisation that follows would take it away again.
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(Norm(filters, mode=normalisation) for _ in range(4))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        self.normalisation: Normalisation = normalisation
        self.features = filters * (size // 16) ** 2

    def forward(self, images: Float[Tensor, "T n C H W"], support: int) -> Float[Tensor, "T n D"]:
        """Features of all images of all tasks, the first `support` of each task being its support.

        Reads the images without a copy where `images.transpose(0, 1)` is contiguous, as those of
        `Episodes` are.
        """
        tasks, samples = images.shape[:2]
        x = images.transpose(0, 1).reshape(samples * tasks, *images.shape[2:])
        sizes = [size * tasks for size in (support, samples - support) if size > 0]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            # split, not two slices: the gradient of a slice is as large as the whole.
            parts = conv(x).split(sizes)
            x = torch.cat([F.relu(F.max_pool2d(norm(part, tasks), 2)) for part in parts])
        return x.reshape(samples, tasks, -1).transpose(0, 1)
