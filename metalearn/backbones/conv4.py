"""The four-block convolutional network of the few-shot literature.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels,
D features.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from metalearn.backbones.backbone import keeps, rerun
from metalearn.backbones.norm import Norm, check_normalisation, task_by_task
from metalearn.backbones.pooled import upright
from metalearn.config.choices import Normalisation
from metalearn.errors import ConfigError


class Conv4(nn.Module):
    """Four blocks of convolution (3x3), normalisation, ReLU and max pooling (2x2).

    Source: Vinyals et al. 2016, section 4.1; Snell et al. 2017 (64 filters); Finn et al. 2017 (32
    on miniImageNet); Bertinetto et al. 2019 (96, 192, 384, 512, there with leaky ReLUs, dropout
    and the last two blocks side by side, which this is without). Batches are normalised after
    pooling (`metalearn.backbones.pooled`), which changes nothing but costs.

    `to(memory_format=torch.channels_last)` is all that channels-last needs.

    Args:
        filters: channels of every block, or of each of the four.
        channels: channels of the images.
        size: side of the images, at least 16 pixels (halved four times).
        normalisation: see `Normalisation`.
        recompute: keep the input of each block only, and run the block again in backward.
        generator: draws the initial weights (He et al. 2015, normal); None: torch's own.

    Raises:
        ConfigError: filters, channels or size too small, or filters not divided by 8 groups.
    """

    def __init__(
        self,
        *,
        filters: int | tuple[int, int, int, int],
        channels: int,
        size: int,
        normalisation: Normalisation = "transductive",
        recompute: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = (filters,) * 4 if isinstance(filters, int) else filters
        if min(widths) < 1 or channels < 1 or size < 16:
            raise ConfigError(
                f"Conv4 was given {filters} filters, {channels} channels and {size} pixels a side: "
                "it needs at least 1, 1 and 16."
            )
        check_normalisation(normalisation, widths)
        # No bias: the normalisation that follows would take it away again.
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False)
            for a, b in itertools.pairwise((channels, *widths))
        )
        self.norms = nn.ModuleList(Norm(width, mode=normalisation) for width in widths)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
        self.normalisation: Normalisation = normalisation
        self.recompute = recompute
        self.features = widths[-1] * (size // 16) ** 2

    def forward(self, images: Float[Tensor, "T n C H W"], support: int) -> Float[Tensor, "T n D"]:
        """Features of all images of all tasks, the first `support` of each task being its support.

        Reads the images without a copy where `images.transpose(0, 1)` is contiguous, as those of
        `Episodes` are, and the weights are not channels-last.
        """
        tasks, samples = images.shape[:2]
        counts = [count for count in (support, samples - support) if count > 0]
        last = self.convs[-1].weight
        assert isinstance(last, Tensor)
        alone = task_by_task(last)
        x = (images if alone else images.transpose(0, 1)).flatten(0, 1)
        sizes = counts * tasks if alone else [count * tasks for count in counts]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, Norm)

            def block(x: Tensor, conv: nn.Conv2d = conv, norm: Norm = norm) -> Tensor:
                # Weights with a graph of their own are a task's adapted ones. Differentiated twice,
                # the three operations one by one are faster; once, they are for small images only,
                # and they take more memory.
                adapted = conv.weight.grad_fn is not None and len(sizes) == 1
                if norm.by_batch and not adapted:
                    signs = upright(norm.weight)
                    filters = conv.weight * signs[:, None, None, None]
                    y = functional_call(conv, {"weight": filters}, (x,))
                    # nobody else reads y, unless a hook has handed it on
                    spend = not conv._forward_hooks
                    return norm.pooled(y, signs, sizes, len(counts), tasks, spend=spend)
                (y,) = norm([conv(x)], tasks)
                return F.relu(F.max_pool2d(y, 2))

            x = block(x) if keeps(self.recompute) else rerun(block, x, owner=norm)
        if alone:
            return x.reshape(tasks, samples, -1)
        return x.reshape(samples, tasks, -1).transpose(0, 1)
