"""Episodes that are drawn ahead are the sampler's own."""

import threading
from dataclasses import replace

import pytest
import torch

from metalearn.data import Pool
from metalearn.errors import EpisodeError
from metalearn.tasks.episodes import Episodes, Sampler
from metalearn.tasks.stream import drawn

CHUNKS = [range(2), range(2, 4), range(2), range(2, 5), range(7, 8)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, range]]:
    """Each call of a sampler: the thread and the episodes; images for elsewhere stay here."""
    made: list[tuple[str, range]] = []
    plain = Sampler.sample

    def spy(self: Sampler, start: int, count: int) -> Episodes:
        thread = threading.current_thread().name.partition("_")[0]
        made.append((thread, range(start, start + count)))
        return plain(replace(self, pool=replace(self.pool, target=None)), start, count)

    monkeypatch.setattr(Sampler, "sample", spy)
    return made


def sampler(pool: Pool, *, elsewhere: bool) -> Sampler:
    target = torch.device("meta") if elsewhere else None
    return Sampler(pool=replace(pool, target=target), way=3, shot=1, query=1, seed=0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_same_episodes_in_any_order(
    elsewhere: bool, train_pool: Pool, calls: list[tuple[str, range]]
) -> None:
    plain = sampler(train_pool, elsewhere=False)
    found = list(drawn(sampler(train_pool, elsewhere=elsewhere), CHUNKS))
    assert calls == [("prefetch" if elsewhere else "MainThread", chunk) for chunk in CHUNKS]
    for chunk, episodes in zip(CHUNKS, found, strict=True):
        assert torch.equal(episodes.images, plain.sample(chunk.start, len(chunk)).images)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_at_most_one_chunk_is_drawn_ahead(
    elsewhere: bool, train_pool: Pool, calls: list[tuple[str, range]]
) -> None:
    stream = drawn(sampler(train_pool, elsewhere=elsewhere), CHUNKS)
    for given in range(1, 4):
        next(stream)
        # The thread may not have begun the chunk ahead.
        assert given <= len(calls) <= given + elsewhere
    stream.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_refusal_comes_through(elsewhere: bool, train_pool: Pool) -> None:
    with pytest.raises(EpisodeError, match="index of at least 0"):
        next(drawn(sampler(train_pool, elsewhere=elsewhere), [range(-1, 0)]))
