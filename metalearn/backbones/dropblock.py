"""DropBlock (Ghiasi, Lin and Le 2018): drops squares of neighbouring activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.errors import ConfigError


class DropBlock(nn.Module):
    """In training, sets squares of `block` x `block` pixels of a channel to 0; in testing nothing.

    Squares lie inside the image and are drawn independently at each of their
    (H - block + 1)(W - block + 1) places with probability
    `gamma = rate / block^2 * H W / ((H - block + 1) (W - block + 1))`: equation 1 there, by which
    `rate` of all pixels would be dropped if squares never met. A pixel that c places cover is kept
    with probability (1 - gamma)^c. What is left is scaled up, for each image by itself, by
    (pixels) / (pixels kept), so that its sum would stay if it were constant (there: for the whole
    batch; the change keeps tasks apart). `block = 1` is dropout.

    Draws from torch's own generator of the device, as `nn.Dropout` does.

    Args:
        rate: part of the pixels to drop, in [0, 1).
        block: side of a square, at least 1 and at most the image's side.

    Raises:
        ConfigError: rate or block out of range; in forward, an image smaller than a square.
    """

    def __init__(self, *, rate: float, block: int) -> None:
        super().__init__()
        if not 0 <= rate < 1 or block < 1:
            raise ConfigError(
                f"DropBlock was given rate {rate} and block {block}: "
                "it needs a rate in [0, 1) and a block of at least 1."
            )
        self.rate = rate
        self.block = block

    def gamma(self, height: int, width: int) -> float:
        """Probability of a square at each of its places."""
        places = (height - self.block + 1) * (width - self.block + 1)
        return self.rate / self.block**2 * height * width / places

    def forward(self, x: Float[Tensor, "images C H W"]) -> Float[Tensor, "images C H W"]:
        """Drop, then scale."""
        if not self.training or self.rate == 0:
            return x
        height, width = x.shape[2:]
        if min(height, width) < self.block:
            raise ConfigError(
                f"DropBlock was given images of {height} x {width} pixels for squares of side "
                f"{self.block}: lower block."
            )
        edge = self.block - 1
        places = x.new_empty(*x.shape[:2], height - edge, width - edge)
        corners = places.bernoulli_(min(1.0, self.gamma(height, width)))
        # A pixel is dropped if a corner lies in the square that ends at it.
        dropped = F.max_pool2d(F.pad(corners, (edge,) * 4), self.block, stride=1)
        kept = 1 - dropped
        count = kept[0].numel()
        part = kept.flatten(1).sum(1, dtype=torch.float32).clamp(min=1) / count
        return x * kept / part.to(x.dtype)[:, None, None, None]
