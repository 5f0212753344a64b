"""Prefetched episodes are the sampler's own."""

import threading
from dataclasses import replace

import pytest
import torch

from metalearn.data import Pool
from metalearn.errors import EpisodeError
from metalearn.tasks.episodes import Episodes, Sampler
from metalearn.tasks.stream import Prefetch
from metalearn.tasks.stream import ahead as drawn_ahead


def test_the_same_episodes_in_any_order(train_pool: Pool) -> None:
    sampler = Sampler(pool=train_pool, way=3, shot=1, query=1, seed=0)
    with Prefetch(sampler) as ahead:
        assert ahead.pool is train_pool
        for start, count in ((0, 2), (2, 2), (4, 2), (0, 2), (2, 3), (7, 1)):
            assert torch.equal(
                ahead.sample(start, count).images, sampler.sample(start, count).images
            )


def test_the_next_batch_is_drawn_meanwhile_and_only_once(
    train_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    plain = Sampler.sample

    def spy(self: Sampler, start: int, count: int) -> Episodes:
        calls.append((threading.current_thread().name.partition("_")[0], start))
        return plain(self, start, count)

    monkeypatch.setattr(Sampler, "sample", spy)
    with Prefetch(Sampler(pool=train_pool, way=3, shot=1, query=1, seed=0)) as ahead:
        for start in (0, 2, 4):
            ahead.sample(start, 2)
    # The batch after the last may have been begun or not.
    assert calls[:3] == [("MainThread", 0), ("prefetch", 2), ("prefetch", 4)]
    assert calls[3:] in ([], [("prefetch", 6)])


def test_a_refusal_comes_through(train_pool: Pool) -> None:
    with (
        Prefetch(Sampler(pool=train_pool, way=3, shot=1, query=1, seed=0)) as ahead,
        pytest.raises(EpisodeError, match="index of at least 0"),
    ):
        ahead.sample(-1, 1)


def test_only_images_that_are_elsewhere_are_drawn_ahead(train_pool: Pool) -> None:
    sampler = Sampler(pool=train_pool, way=3, shot=1, query=1, seed=0)
    assert drawn_ahead(sampler) is sampler
    elsewhere = replace(sampler, pool=replace(train_pool, target=torch.device("meta")))
    found = drawn_ahead(elsewhere)
    assert isinstance(found, Prefetch)
    found.close()
