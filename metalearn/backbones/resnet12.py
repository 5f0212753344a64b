"""ResNet-12, the larger backbone of the few-shot literature.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels,
D features.
"""

from __future__ import annotations

import itertools
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.backbones.backbone import keeps, rerun
from metalearn.backbones.dropblock import DropBlock
from metalearn.backbones.norm import Norm, check_normalisation, task_by_task
from metalearn.config.choices import Normalisation
from metalearn.errors import ConfigError

_SLOPE: Final = 0.1  # of the leaky ReLUs


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions, each halving the image.

    Source: Lee et al. 2019 (MetaOptNet), section 4.1 and its code; with 64-160-320-640 filters and
    RGB images 12,424,320 parameters, the "12.4M" of the literature. The activations of the first
    two blocks are dropped one by one, those of the last two by `DropBlock`, each at `drop_rate`
    throughout (there it grows from 0 over the first 40,000 steps). Support and query run apart.

    `to(memory_format=torch.channels_last)` is all that channels-last needs.

    Args:
        filters: channels of the four blocks.
        channels: channels of the images.
        size: side of the images, at least 16 pixels (halved four times).
        normalisation: see `Normalisation`.
        drop_rate: rate of dropout and DropBlock in training; 0 for none.
        block: side of DropBlock's squares: 5 for images of 84 pixels, 2 for 32.
        average: average the last block's pixels (D = last filters, Tian et al. 2020)
            or all kept (as in Lee et al. 2019).
        recompute: keep the input of each block only, and run the block again in backward.
        generator: draws the initial weights (He et al. 2015, normal, by fan-out); None: torch's.

    Raises:
        ConfigError: a number too small, filters not divided by 8 groups, squares that are larger
            than the last block's image.
    """

    def __init__(
        self,
        *,
        filters: tuple[int, int, int, int] = (64, 160, 320, 640),
        channels: int,
        size: int,
        normalisation: Normalisation = "transductive",
        drop_rate: float = 0.1,
        block: int = 5,
        average: bool = True,
        recompute: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(filters) < 1 or channels < 1 or size < 16:
            raise ConfigError(
                f"ResNet12 was given {filters} filters, {channels} channels and {size} pixels a "
                "side: it needs at least 1, 1 and 16."
            )
        check_normalisation(normalisation, filters)
        last = size // 16
        if drop_rate > 0 and block > last:
            raise ConfigError(
                f"ResNet12 was given DropBlock's squares of side {block}, but the last block's "
                f"image has a side of {last}: lower block, or set drop_rate to 0."
            )
        pairs = list(itertools.pairwise((channels, *filters)))
        squares = (1, 1, block, block)
        self.blocks = nn.ModuleList(
            _Residual(a, b, normalisation, DropBlock(rate=drop_rate, block=square))
            for (a, b), square in zip(pairs, squares, strict=True)
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(
                    part.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
        self.normalisation: Normalisation = normalisation
        self.average = average
        self.recompute = recompute
        self.features = filters[-1] * (1 if average else last**2)

    def forward(self, images: Float[Tensor, "T n C H W"], support: int) -> Float[Tensor, "T n D"]:
        """Features of all images of all tasks, the first `support` of each task being its support.

        Reads the images without a copy where `images.transpose(0, 1)` is contiguous, as those of
        `Episodes` are, and the weights are not channels-last.
        """
        tasks, samples = images.shape[:2]
        sizes = [size for size in (support, samples - support) if size > 0]
        parts = [self._part(part, tasks) for part in images.transpose(0, 1).split(sizes)]
        return torch.cat(parts).transpose(0, 1)

    def _part(self, images: Float[Tensor, "m T C H W"], tasks: int) -> Float[Tensor, "m T D"]:
        first = self.blocks[0]
        assert isinstance(first, _Residual)
        alone = first.task_by_task()
        x = (images.transpose(0, 1) if alone else images).flatten(0, 1)
        pieces = tasks if alone else 1
        for residual in self.blocks:

            def block(x: Tensor, residual: nn.Module = residual) -> Tensor:
                answer: Tensor = residual(x, tasks, pieces)
                return answer

            x = block(x) if keeps(self.recompute) else rerun(block, x, owner=residual)
        if self.average:
            x = x.mean((2, 3))
        if alone:
            return x.reshape(tasks, len(images), -1).transpose(0, 1)
        return x.reshape(len(images), tasks, -1)


class _Residual(nn.Module):
    """Three convolutions beside one of 1x1; then pooling and dropping."""

    def __init__(self, inside: int, outside: int, mode: Normalisation, drop: DropBlock) -> None:
        super().__init__()
        widths = [inside] + [outside] * 3
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(Norm(outside, mode=mode) for _ in range(3))
        self.short = nn.Conv2d(inside, outside, 1, bias=False)
        self.short_norm = Norm(outside, mode=mode)
        self.drop = drop

    def task_by_task(self) -> bool:
        last = self.convs[-1].weight
        assert isinstance(last, Tensor)
        return task_by_task(last)

    def forward(self, x: Tensor, tasks: int, pieces: int) -> Tensor:
        def normed(norm: nn.Module, z: Tensor) -> Tensor:
            done: list[Tensor] = norm(z.chunk(pieces), tasks)
            return torch.cat(done) if pieces > 1 else done[0]

        y = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = normed(norm, conv(y))
            if index < 2:
                y = F.leaky_relu(y, _SLOPE)
        y = F.leaky_relu(y + normed(self.short_norm, self.short(x)), _SLOPE)
        dropped: Tensor = self.drop(F.max_pool2d(y, 2))
        return dropped
