"""Few-shot episodes: batches of tasks that are functions of (seed, split, index) alone.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from metalearn.data.pool import Pool, sent
from metalearn.data.published import Split
from metalearn.errors import EpisodeError
from metalearn.tasks.augmentation import Augmentation, Jitter

GLYPH_JITTER: Final = Jitter()
# The number of a split in the key of its random streams: part of the definition of an episode.
_STREAM: Final[dict[Split, int]] = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """T tasks, each to tell `way` classes apart after `shot` labelled images of each at most.

    Attributes:
        images: support first, then query, in [0, 1]. In memory the tasks are the inner of the two
            leading dimensions, so that `images.transpose(0, 1)` is contiguous: per-task statistics
            are then statistics of the channels of a view (see `backbones`).
        support_labels: the class of each support image, below `way`.
        query_labels: the class of each query image.
        way: classes of one task.
        shot: support images of one class, the largest number if classes differ.
        query: query images of one class.
    """

    images: Float[Tensor, "T n C H W"]
    support_labels: Int[Tensor, "T S"]
    query_labels: Int[Tensor, "T Q"]
    way: int
    shot: int
    query: int

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.images)

    def split(self, size: int) -> Iterator[Episodes]:
        """The tasks in order, at most `size` at a time, as views.

        Raises:
            EpisodeError: a size below 1.
        """
        for tasks in chunked(range(self.tasks), size):
            part = slice(tasks.start, tasks.stop)
            yield replace(
                self,
                images=self.images[part],
                support_labels=self.support_labels[part],
                query_labels=self.query_labels[part],
            )


def chunked(indices: range, size: int) -> Iterator[range]:
    """The indices in order, at most `size` at a time.

    Raises:
        EpisodeError: a size below 1.
    """
    if size < 1:
        raise EpisodeError(f"chunks of {size} tasks were asked for: give a size of at least 1.")
    return (indices[first : first + size] for first in range(0, len(indices), size))


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
        augmentation: changes each drawn image; None: none.
        fewest_way: draw each episode's number of classes, from this one to `way`, each as likely;
            None: always `way`.
        fewest_shot: draw each class's number of support images, from this one to `shot`, each as
            likely; None: always `shot`. (After Meta-Dataset, Triantafillou et al. 2020, which draws
            both by other rules.)
    """

    pool: Pool
    way: int
    shot: int
    query: int
    seed: int
    augmentation: Augmentation | None = GLYPH_JITTER
    fewest_way: int | None = None
    fewest_shot: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("way", self.way, 2),
            ("shot", self.shot, 1),
            ("query", self.query, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise EpisodeError(f"{name} was given as {value}: it must be at least {least}.")
        for name, fewest, least, most in (
            ("fewest_way", self.fewest_way, 2, self.way),
            ("fewest_shot", self.fewest_shot, 1, self.shot),
        ):
            if fewest is not None and not least <= fewest <= most:
                raise EpisodeError(
                    f"{name} was given as {fewest}: it must be from {least} to {most}."
                )
        if self.seed >= 2**64:
            raise EpisodeError(f"seed was given as {self.seed}: it must be below 2^64.")
        if self.way > self.pool.classes:
            raise EpisodeError(
                f"{self.way}-way episodes were asked for, but the {self.pool.split} split has "
                f"{self.pool.classes} classes: lower way (--train.way or --test.way)."
            )
        if self.shot + self.query > self.pool.fewest:
            raise EpisodeError(
                f"shot {self.shot} and query {self.query} need {self.shot + self.query} images of "
                f"each class, but the {self.pool.split} split has {self.pool.fewest}: lower one."
            )

    @property
    def varies(self) -> bool:
        """Episodes differ in their number of classes or of support images."""
        return self.fewest_way is not None or self.fewest_shot is not None

    def largest(self) -> Sampler:
        """The sampler of episodes that all are as large as these can be."""
        return replace(self, fewest_way=None, fewest_shot=None)

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
        if count > 1 and self.varies:
            raise EpisodeError(
                f"{count} episodes were asked for together, but their shape varies: ask for one at "
                "a time."
            )
        draws = [self._draw(index) for index in range(start, start + count)]
        device = self.pool.device
        # (S+Q, T): the tasks inside, see Episodes.
        flat = np.stack([d[0] for d in draws], axis=1)
        images = self.pool.gather(flat.flatten())
        if self.augmentation is not None:
            uniform = sent(torch.from_numpy(np.stack([d[1] for d in draws], axis=1)), device)
            images = self.augmentation.apply(images, uniform.flatten(0, 1))
        _, _, shots = draws[0]
        support, query = _labels(shots, self.query)
        return Episodes(
            images=images.reshape(*flat.shape, *images.shape[1:]).transpose(0, 1),
            support_labels=sent(torch.from_numpy(support), device).repeat(count, 1),
            query_labels=sent(torch.from_numpy(query), device).repeat(count, 1),
            way=len(shots),
            shot=int(shots.max()),
            query=self.query,
        )

    def _draw(
        self, index: int
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n draws"], Int[np.ndarray, " way"]]:
        """Places of the images, draws of each, and support images of each class."""
        stream = np.random.Philox(
            key=np.array([self.seed, _STREAM[self.pool.split]], np.uint64),
            # The stream counts in the low words; the high one is the episode's own.
            counter=np.array([0, 0, 0, index], np.uint64),
        )
        way, taken = self.way, self.shot + self.query
        if self.fewest_way is not None:
            way = int(_between(self.fewest_way, self.way, stream.random_raw(1))[0])
        shots = np.full(way, self.shot)
        if self.fewest_shot is not None:
            shots = _between(self.fewest_shot, self.shot, stream.random_raw(way))
        # The places of the smallest of n random integers are a random subset in random order.
        classes = np.argsort(stream.random_raw(self.pool.classes), kind="stable")[:way]
        keys = stream.random_raw(way * self.pool.examples).reshape(way, -1)
        if self.pool.counts is not None:
            # Padding gets the largest key, and comes last among equals.
            ends = np.asarray(self.pool.counts)[classes, None]
            keys[np.arange(self.pool.examples) >= ends] = np.iinfo(np.uint64).max
        examples = np.argsort(keys, axis=1, kind="stable")[:, :taken]
        # one example of each class after another, those left out that a class has no shot for
        used = np.arange(taken)[:, None] < shots
        used[self.shot :] = True
        flat = (classes[:, None] * self.pool.examples + examples).T[used]
        changes = 0 if self.augmentation is None else self.augmentation.draws
        raw = stream.random_raw(len(flat) * changes).reshape(len(flat), changes)
        # The top 24 bits: every such fraction is a float32, and none rounds up to 1.
        return flat, ((raw >> np.uint64(40)) * 2.0**-24).astype(np.float32), shots


def _between(least: int, most: int, raw: UInt64[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Numbers from least to most; 64 random bits favour none by more than 1e-15."""
    return least + (raw % np.uint64(most - least + 1)).astype(np.int64)


def _labels(
    shots: Int[np.ndarray, " way"], query: int
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " Q"]]:
    """Classes of support and query images, in the order of `Sampler`'s draws."""
    classes = np.arange(len(shots))
    each = [classes[shots > shot] for shot in range(int(shots.max()))]
    return np.concatenate(each), np.tile(classes, query)
