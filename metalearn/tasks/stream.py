"""A stream of episodes: each chunk is drawn while the one before it is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from metalearn.tasks.episodes import Episodes, Sampler


def drawn(sampler: Sampler, chunks: Iterable[range]) -> Iterator[Episodes]:
    """Draw the episodes of each chunk of indices, in order.

    Where the host gathers the images for another device, a thread draws one chunk ahead. The
    generator holds no chunk that it has given out.

    Raises:
        EpisodeError: an index is negative, or a chunk is empty.
    """
    if sampler.pool.device == sampler.pool.images.device:
        for chunk in chunks:
            yield sampler.sample(chunk.start, len(chunk))
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as worker:
        waiting = deque[Future[Episodes]]()
        for chunk in chunks:
            waiting.append(worker.submit(sampler.sample, chunk.start, len(chunk)))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
