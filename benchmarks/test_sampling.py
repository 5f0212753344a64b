"""Speed and memory of drawing episodes."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.provenance import SEED, provenance
from metalearn.data import Pool
from metalearn.memory import LiveBytes
from metalearn.tasks.episodes import GLYPH_JITTER, Sampler


@pytest.mark.parametrize("tasks", [4, pytest.param(32, marks=pytest.mark.full)])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 84)])
@pytest.mark.parametrize("jitter", [False, True])
def test_draw(
    benchmark: BenchmarkFixture, channels: int, side: int, tasks: int, jitter: bool
) -> None:
    draw = torch.Generator().manual_seed(SEED)
    shape = (20, 20, channels, side, side)
    images = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    pool = Pool(images=images, split="train", names=tuple(map(str, range(20))))
    augmentation = GLYPH_JITTER if jitter else None
    sampler = Sampler(pool=pool, way=5, shot=5, query=5, seed=SEED, augmentation=augmentation)
    with LiveBytes() as live:
        first = sampler.sample(0, tasks)
    again = benchmark(sampler.sample, 0, tasks)
    benchmark.extra_info |= provenance() | {
        "images": tasks * 50,
        "peak_bytes": live.peak,
        "bytes_of_the_images": first.images.nbytes,
    }
    assert torch.equal(first.images, again.images)  # what it solved: the same index, the same draw
