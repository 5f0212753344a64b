"""Random changes of drawn images, batched: each image's own draws decide its own change.

Shapes: n images, C channels, H, W pixels, in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from metalearn.errors import EpisodeError


@runtime_checkable
class Augmentation(Protocol):
    """A change of images that depends on nothing but the images and their draws."""

    @property
    def draws(self) -> int:
        """Uniform draws for one image."""
        ...

    def apply(
        self, images: Float[Tensor, "n C H W"], uniform: Float[Tensor, "n draws"]
    ) -> Float[Tensor, "n C H W"]:
        """Change each image by its own draws from [0, 1), on the images' device."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """A random affine map of each image; all zeros (and scales of 1) leave it as it is.

    Attributes:
        rotation: largest angle, degrees.
        shear: largest horizontal shear, pixels a pixel.
        smallest: smallest scale.
        largest: largest scale.
        shift: largest shift in each direction, as a part of the image's side.
    """

    rotation: float = 12.0
    shear: float = 0.15
    smallest: float = 0.85
    largest: float = 1.12
    shift: float = 0.07

    draws: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest:
            raise EpisodeError(
                f"jitter was given scales from {self.smallest} to {self.largest}: they must be "
                "positive, smallest first."
            )

    def maps(self, uniform: Float[Tensor, "*n 5"]) -> Float[Tensor, "*n 2 3"]:
        """The maps from output to input coordinates, for draws from [0, 1).

        An image is sheared by s, rotated by a, scaled by c and shifted by t:
        x_out = c R(a) [[1, s], [0, 1]] x_in + t. Resampling asks for the inverse,
        x_in = [[1, -s], [0, 1]] R(-a) (x_out - t) / c. Coordinates run from -1 to 1, so that a
        shift by one side is 2.
        """
        turn, slant, size, right, down = uniform.unbind(-1)
        angle = (2 * turn - 1) * math.radians(self.rotation)
        shear = (2 * slant - 1) * self.shear
        scale = self.smallest + (self.largest - self.smallest) * size
        shift = torch.stack((2 * right - 1, 2 * down - 1), -1) * (2 * self.shift)
        cos, sin = angle.cos(), angle.sin()
        first = torch.stack((cos + shear * sin, sin - shear * cos), -1)
        second = torch.stack((-sin, cos), -1)
        inverse = torch.stack((first, second), -2) / scale[..., None, None]
        return torch.cat((inverse, -inverse @ shift.unsqueeze(-1)), -1)

    def apply(
        self, images: Float[Tensor, "n C H W"], uniform: Float[Tensor, "n 5"]
    ) -> Float[Tensor, "n C H W"]:
        """Move each image by its own map, with bilinear resampling; outside an image is 0."""
        grid = F.affine_grid(self.maps(uniform), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)


# ITU-R BT.601: what Pillow and torchvision call grey.
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """Crop with padding, mirror and colour jitter of each colour image, in this order.

    The defaults are MetaOptNet's for 84 pixels (Lee et al., CVPR 2019: padding 8; it takes 4 for
    32 pixels), with brightness, contrast and saturation changed in a fixed order.

    Attributes:
        padding: black pixels put around an image before it is cropped to its size again.
        mirror: turn half of the images left to right.
        brightness: largest relative change.
        contrast: largest relative change of the distance to the image's mean grey.
        saturation: largest relative change of the distance to a pixel's own grey.
    """

    padding: int = 8
    mirror: bool = True
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    draws: ClassVar[int] = 6

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise EpisodeError(f"padding was given as {self.padding}: it must be at least 0.")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise EpisodeError(f"{name} was given as {value}: it must be from 0 to 1.")

    def apply(
        self, images: Float[Tensor, "n C H W"], uniform: Float[Tensor, "n 6"]
    ) -> Float[Tensor, "n C H W"]:
        """Change each image by its own draws.

        Raises:
            EpisodeError: the images are not in colour.
        """
        if images.shape[1] != 3:
            raise EpisodeError(
                f"photographs were expected, with 3 channels, and images have {images.shape[1]}: "
                "use another augmentation, or none."
            )
        down, right, mirrored, *colours = uniform.unbind(1)
        images = self._crop(images, down, right, mirrored)
        strengths = (self.brightness, self.contrast, self.saturation)
        bright, contrast, saturation = (
            (1 + strength * (2 * draw - 1))[:, None, None, None]
            for strength, draw in zip(strengths, colours, strict=True)
        )
        images = (images * bright).clamp(0, 1)
        images = torch.lerp(_grey(images).mean((2, 3), keepdim=True), images, contrast).clamp(0, 1)
        return torch.lerp(_grey(images), images, saturation).clamp(0, 1)

    def _crop(
        self,
        images: Float[Tensor, "n C H W"],
        down: Float[Tensor, " n"],
        right: Float[Tensor, " n"],
        mirrored: Float[Tensor, " n"],
    ) -> Float[Tensor, "n C H W"]:
        n, channels, height, width = images.shape
        # For u <= 1 - 2^-24 and an integer m, u m rounds to less than m: the places are 0 to m - 1.
        places = 2 * self.padding + 1
        rows = torch.arange(height, device=images.device) + (down * places).long()[:, None]
        columns = torch.arange(width, device=images.device).expand(n, width)
        if self.mirror:
            columns = torch.where(mirrored[:, None] < 0.5, columns, width - 1 - columns)
        columns = columns + (right * places).long()[:, None]
        padded = F.pad(images, [self.padding] * 4)
        each = torch.arange(n, device=images.device)[:, None, None, None]
        layer = torch.arange(channels, device=images.device)[:, None, None]
        return padded[each, layer, rows[:, None, :, None], columns[:, None, None, :]]


def _grey(images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    red, green, blue = (w * c for w, c in zip(_GREY, images.unbind(1), strict=True))
    return (red + green + blue).unsqueeze(1)
