"""Normalisation whose statistics never mix tasks.

Shapes: T tasks, S images of one part (support or query) of each, C channels, H, W pixels.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import ConfigError

Normalisation: TypeAlias = Literal["transductive", "stored", "group"]
"""Which images an image is normalised with.

`transductive`: batch normalisation by the image's own task, support and query apart, in training
and in testing alike. An answer then depends on the other queries of its task.
`stored`: in training (`module.train()`) as transductive, while running averages of these means and
(unbiased) variances are kept; in testing (`module.eval()`) the averages normalise every image, so
that an answer depends on no other query. The averages move by a tenth towards the mean over the
tasks of each part that passes: support, then query, and once for each chunk of tasks.
`group`: group normalisation, each image by itself (Wu and He 2018).
"""

GROUPS = 8


def check_normalisation(mode: str, widths: tuple[int, ...]) -> None:
    """Refuse an unknown mode, and widths that groups don't divide.

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
    """Normalises the channels of images that are ordered by sample, then by task.

    Statistics of each task by itself need no loop and no copy: in this order (S T, C, H, W) is
    also (S, T C, H, W), where a task's channel is a channel, and batch normalisation keeps
    channels apart. Images in channels-last order have no such view; theirs are taken by reductions
    over (S, T, C, H, W), in float32 at least.

    Attributes:
        noticing: whether running averages are kept up (mode stored, in training).
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

    def forward(
        self, x: Float[Tensor, "images C H W"], tasks: int
    ) -> Float[Tensor, "images C H W"]:
        """Normalise samples of `tasks` tasks."""
        if self.mode == "group":
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        if self.mode == "stored" and not self.training:
            return F.batch_norm(
                x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps
            )
        if _channels_last(x):
            return self._reduced(x, tasks)
        apart = x.reshape(-1, tasks * x.shape[1], *x.shape[2:])
        scale, shift = self.weight.repeat(tasks), self.bias.repeat(tasks)
        if self.mode == "transductive":
            return F.batch_norm(apart, None, None, scale, shift, True, 0.0, self.eps).view_as(x)
        # With momentum 1 the averages that batch_norm moves become the statistics themselves.
        mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
        y = F.batch_norm(apart, mean, variance, scale, shift, True, 1.0, self.eps).view_as(x)
        self._notice(mean.view(tasks, -1), variance.view(tasks, -1))
        return y

    def _reduced(self, x: Tensor, tasks: int) -> Tensor:
        apart = x.unflatten(0, (-1, tasks))
        wide = apart.float() if apart.dtype in (torch.float16, torch.bfloat16) else apart
        variance, mean = torch.var_mean(wide, dim=(0, 3, 4), correction=0)  # (T, C)
        if self.mode == "stored":
            count = apart.numel() // mean.numel()
            self._notice(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        y = torch.addcmul(shift[..., None, None], wide, scale[..., None, None])
        return y.to(x.dtype).flatten(0, 1)

    def _notice(self, means: Float[Tensor, "T C"], variances: Float[Tensor, "T C"]) -> None:
        if self.noticing:
            with torch.no_grad():
                self.mean.lerp_(means.mean(0), self.momentum)
                self.variance.lerp_(variances.mean(0), self.momentum)


def _channels_last(x: Tensor) -> bool:
    # By strides: is_contiguous(memory_format=...) is not to be had inside vmap.
    return not x.is_contiguous() and x.stride(1) == 1
