"""Few-shot episodes: batches of tasks that depend on (seed, split, index) and on nothing else.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from metalearn.data.pool import Pool, Split
from metalearn.errors import EpisodeError

# The number of a split in the key of its random streams: part of the definition of an episode.
_STREAM: Final[dict[Split, int]] = {"train": 0, "validation": 1, "test": 2}
_JITTERS: Final = 5  # uniform draws for the affine map of one image


@dataclass(frozen=True, slots=True)
class Episodes:
    """T tasks, each to tell `way` classes apart after `shot` labelled images of each.

    Attributes:
        images: support first, then query, in [0, 1]. In memory the tasks are the inner of the two
            leading dimensions, so that `images.transpose(0, 1)` is contiguous: per-task statistics
            are then statistics of the channels of a view (see `backbones`).
        support_labels: the class of each support image, below `way`.
        query_labels: the class of each query image.
        way: classes of one task.
        shot: support images of one class.
        query: query images of one class.
    """

    images: Float[Tensor, "T n C H W"]
    support_labels: Int[Tensor, "T S"]
    query_labels: Int[Tensor, "T Q"]
    way: int
    shot: int
    query: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Draws episodes from a pool.

    Episode i comes from its own counter-based random stream (Philox: key (seed, split), counter
    i), so it depends neither on the episodes drawn before nor on how many are drawn together.
    Only the generator's raw integers are used: NumPy keeps those, not its distributions, unchanged
    from version to version.

    Attributes:
        pool: the images of one split.
        way: classes of one task.
        shot: support images of one class.
        query: query images of one class, none of them in the support.
        seed: chooses the sequence of episodes.
        jitter: how each drawn image is moved; None leaves it as it is.
    """

    pool: Pool
    way: int
    shot: int
    query: int
    seed: int
    jitter: Jitter | None = Jitter()

    def __post_init__(self) -> None:
        for name, value, least in (
            ("way", self.way, 2),
            ("shot", self.shot, 1),
            ("query", self.query, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise EpisodeError(f"{name} was given as {value}: it must be at least {least}.")
        if self.seed >= 2**64:
            raise EpisodeError(f"seed was given as {self.seed}: it must be below 2^64.")
        if self.way > self.pool.classes:
            raise EpisodeError(
                f"{self.way}-way episodes were asked for, but the {self.pool.split} split has "
                f"{self.pool.classes} classes: lower way."
            )
        if self.shot + self.query > self.pool.examples:
            raise EpisodeError(
                f"shot {self.shot} and query {self.query} need {self.shot + self.query} images of "
                f"each class, but the {self.pool.split} split has {self.pool.examples}: lower one."
            )

    def sample(self, start: int, count: int) -> Episodes:
        """Episodes `start` to `start + count - 1`, together on the pool's device.

        Raises:
            EpisodeError: a negative index, or none at all.
        """
        if start < 0 or count < 1:
            raise EpisodeError(
                f"{count} episodes from index {start} were asked for: "
                "give an index of at least 0 and a count of at least 1."
            )
        draws = [self._draw(index) for index in range(start, start + count)]
        device = self.pool.images.device
        # (S+Q, T): the tasks inside, see Episodes.
        flat = torch.from_numpy(np.stack([d[0] for d in draws], axis=1)).to(device)
        images = self.pool.images.flatten(0, 1)[flat.flatten()].float() / 255
        if self.jitter is not None:
            uniform = torch.from_numpy(np.stack([d[1] for d in draws], axis=1)).to(device)
            images = self.jitter.apply(images, uniform.flatten(0, 1))
        labels = torch.arange(self.way, device=device)
        return Episodes(
            images=images.reshape(*flat.shape, *images.shape[1:]).transpose(0, 1),
            support_labels=labels.repeat(self.shot).repeat(count, 1),
            query_labels=labels.repeat(self.query).repeat(count, 1),
            way=self.way,
            shot=self.shot,
            query=self.query,
        )

    def _draw(
        self, index: int
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 5"]]:  # images, jitter draws
        stream = np.random.Philox(
            key=np.array([self.seed, _STREAM[self.pool.split]], np.uint64),
            # The stream counts in the low words; the high one is the episode's own.
            counter=np.array([0, 0, 0, index], np.uint64),
        )
        taken = self.shot + self.query
        # The places of the smallest of n random integers are a random subset in random order.
        classes = np.argsort(stream.random_raw(self.pool.classes), kind="stable")[: self.way]
        keys = stream.random_raw(self.way * self.pool.examples).reshape(self.way, -1)
        examples = np.argsort(keys, axis=1, kind="stable")[:, :taken]
        flat = (classes[:, None] * self.pool.examples + examples).T.reshape(-1)
        raw = stream.random_raw(self.way * taken * _JITTERS).reshape(-1, _JITTERS)
        # The top 24 bits: every such fraction is a float32, and none rounds up to 1.
        return flat, ((raw >> np.uint64(40)) * 2.0**-24).astype(np.float32)
