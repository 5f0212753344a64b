"""Normalisation whose statistics never mix tasks.

Shapes: T tasks, S images of one part (support or query) of each, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn.backbones.pooled import normalised_pooled
from metalearn.config.choices import Normalisation
from metalearn.errors import ConfigError

GROUPS = 8


def check_normalisation(mode: str, widths: tuple[int, ...]) -> None:
    """Raise for an unknown mode, and for widths that groups don't divide.

    Raises:
        ConfigError: naming what was given.
    """
    if mode not in get_args(Normalisation):
        raise ConfigError(
            f"normalisation was given as {mode!r}: "
            f"it is one of {', '.join(get_args(Normalisation))}."
        )
    for filters in widths:
        if mode == "group" and filters % GROUPS:
            raise ConfigError(
                f"group normalisation was given {filters} filters: "
                f"give a multiple of its {GROUPS} groups."
            )


class Norm(nn.Module):
    """Normalises the channels of images by the statistics of their own task.

    Images of several tasks may be ordered by sample, then by task: this needs no loop and no copy,
    because (S T, C, H, W) is then also (S, T C, H, W), where a task's channel is a channel, and
    batch normalisation keeps channels apart. Images in channels-last order have no such view, and
    come as one piece for each task: see `task_by_task`.

    Attributes:
        noticing: update the running averages (mode stored, in training).
    """

    eps = 1e-5
    momentum = 0.1
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, *, mode: Normalisation, groups: int = GROUPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mode = mode
        self.groups = groups
        self.noticing = True
        if mode == "stored":
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("variance", torch.ones(channels))

    def forward(self, pieces: Sequence[Tensor], tasks: int) -> list[Tensor]:
        """Normalise one part, support or query, of `tasks` tasks.

        Args:
            pieces: (images, C, H, W) of equally many tasks each, ordered by sample, then by task.
            tasks: T.

        Returns:
            The same pieces, normalised.
        """
        if self.mode == "group":
            return [F.group_norm(x, self.groups, self.weight, self.bias, self.eps) for x in pieces]
        if not self.by_batch:
            return [
                F.batch_norm(
                    x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps
                )
                for x in pieces
            ]
        each = tasks // len(pieces)
        scale, shift = self.weight.repeat(each), self.bias.repeat(each)
        means: list[Tensor] = []
        variances: list[Tensor] = []
        answer: list[Tensor] = []
        for x in pieces:
            # Channels-last, torch adds up a channel's pixels one after another: statistics in
            # float32 of 25 images of 84 x 84 pixels are then off by 1e-4.
            apart = x.reshape(-1, each * x.shape[1], *x.shape[2:]).contiguous()
            if self.mode == "stored":
                # With momentum 1 the averages that batch_norm moves become the statistics.
                means.append(torch.zeros_like(scale))
                variances.append(torch.ones_like(scale))
                y = F.batch_norm(apart, means[-1], variances[-1], scale, shift, True, 1.0, self.eps)
            else:
                y = F.batch_norm(apart, None, None, scale, shift, True, 0.0, self.eps)
            if x.stride(1) == 1 and x.shape[1] > 1:  # as it came
                y = y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            answer.append(y.reshape(x.shape))
        if self.mode == "stored":
            self._notice(torch.stack(means), torch.stack(variances))
        return answer

    @property
    def by_batch(self) -> bool:
        """Statistics are those of the images at hand."""
        return self.mode == "transductive" or (self.mode == "stored" and self.training)

    def pooled(
        self,
        images: Tensor,
        signs: Tensor,
        sizes: Sequence[int],
        parts: int,
        tasks: int,
        *,
        spend: bool,
    ) -> Tensor:
        """Normalise (`by_batch`), pool and ReLU: see `metalearn.backbones.pooled`.

        Args:
            images: (images, C, H, W) of filters multiplied by `signs`.
            signs: `upright(weight)`.
            sizes: images of each piece; support and query take turns, if there are both.
            parts: 2 if there are both, else 1.
            tasks: T.
            spend: backward may overwrite the images.
        """
        each = tasks * parts // len(sizes)
        answer, means, variances = normalised_pooled(
            images,
            (self.weight * signs).repeat(each),
            self.bias.repeat(each),
            sizes,
            self.eps,
            spend=spend,
        )
        if self.mode == "stored":
            pixels = images.shape[-2] * images.shape[-1]
            for part in range(parts):
                count = sizes[part] // each * pixels
                unbiased = variances[part::parts] * (count / (count - 1))
                self._notice(means[part::parts] * signs.repeat(each), unbiased)
        return answer

    def _notice(self, means: Tensor, variances: Tensor) -> None:
        if self.noticing:
            with torch.no_grad():
                channels = len(self.weight)
                self.mean.lerp_(means.view(-1, channels).mean(0), self.momentum)
                self.variance.lerp_(variances.view(-1, channels).mean(0), self.momentum)


def task_by_task(weight: Tensor) -> bool:
    """A convolution's weights are channels-last, so that its images are too.

    Each task is then normalised by a call of its own: a call of batch normalisation for channels
    that lie next to each other costs a fraction of what reductions over five axes do.
    """
    # By strides: is_contiguous(memory_format=...) is not to be had inside vmap.
    return weight.shape[1] > 1 and weight.stride(1) == 1
