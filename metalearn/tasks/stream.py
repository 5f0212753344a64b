"""The next batch of episodes, drawn while this one is used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeAlias

from metalearn.data.pool import Pool
from metalearn.tasks.episodes import Episodes, Sampler

Follows: TypeAlias = Callable[[int, int], tuple[int, int]]
"""From (first, number) of a batch's episodes to those of the batch after it."""


def following(start: int, count: int) -> tuple[int, int]:
    """As many episodes more, in order."""
    return start + count, count


def ahead(sampler: Sampler, follows: Follows = following) -> Sampler | Prefetch:
    """The sampler itself where images are where they are wanted, else one that draws ahead."""
    pool = sampler.pool
    return sampler if pool.device == pool.images.device else Prefetch(sampler, follows)


class Prefetch:
    """Draws what a sampler draws, one batch ahead on a thread of its own.

    Worth its thread where the host gathers the images. Episodes are a pure function of their index,
    so a batch foreseen wrongly costs time and changes nothing. Use it as a context manager, or
    `close` it.
    """

    def __init__(self, sampler: Sampler, follows: Follows = following) -> None:
        self._sampler = sampler
        self._follows = follows
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._foreseen: tuple[tuple[int, int], Future[Episodes]] | None = None

    @property
    def pool(self) -> Pool:
        """The sampler's images."""
        return self._sampler.pool

    def sample(self, start: int, count: int) -> Episodes:
        """Episodes `start` to `start + count - 1`; those after them are begun.

        Raises:
            EpisodeError: a negative index, or none at all.
        """
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is not None and foreseen[0] == (start, count):
            episodes = foreseen[1].result()
        else:
            episodes = self._sampler.sample(start, count)
        after = self._follows(start, count)
        self._foreseen = after, self._worker.submit(self._sampler.sample, *after)
        return episodes

    def close(self) -> None:
        """End the thread."""
        self._worker.shutdown(cancel_futures=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
