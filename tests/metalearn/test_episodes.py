"""Episodes: a pure function of (seed, split, index), and what an episode must be."""

import dataclasses
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from metalearn.data import Pool
from metalearn.errors import EpisodeError
from metalearn.tasks.augmentation import Jitter
from metalearn.tasks.episodes import Episodes, Sampler

CLASSES, EXAMPLES = 9, 7


def numbered_pool() -> Pool:
    """Images of one pixel that tell which they are: class * 10 + example."""
    number = 10 * torch.arange(CLASSES)[:, None] + torch.arange(EXAMPLES)
    return Pool(number.to(torch.uint8)[..., None, None, None], "train", tuple("abcdefghi"))


def numbers(episodes: Episodes) -> Tensor:
    """Which images were drawn, (T, S+Q)."""
    return (episodes.images.flatten(1) * 255).round().long().view(episodes.images.shape[:2])


def assert_same(a: Episodes, b: Episodes) -> None:
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.support_labels, b.support_labels)
    assert torch.equal(a.query_labels, b.query_labels)


def test_an_episode_depends_on_its_index_alone(train_pool: Pool) -> None:
    def fresh() -> Sampler:
        return Sampler(pool=train_pool, way=5, shot=2, query=3, seed=7)

    together = fresh().sample(0, 6)
    used = fresh()
    used.sample(100, 3)
    for index in (5, 0, 3):
        alone = used.sample(index, 1)
        # Bit for bit, jitter included: nothing in an image's computation sees another image.
        assert torch.equal(alone.images[0], together.images[index])
    assert_same(fresh().sample(2, 3), fresh().sample(2, 3))


def test_seed_split_and_index_each_matter(train_pool: Pool) -> None:
    base = Sampler(pool=train_pool, way=5, shot=1, query=1, seed=0)
    others = [
        dataclasses.replace(base, seed=1).sample(0, 1),
        dataclasses.replace(base, pool=dataclasses.replace(train_pool, split="test")).sample(0, 1),
        base.sample(1, 1),
    ]
    for other in others:
        assert not torch.equal(base.sample(0, 1).images, other.images)


def test_the_stream_is_the_same_in_every_version() -> None:
    # Recorded once. A change here makes every published accuracy another experiment's.
    sampler = Sampler(pool=numbered_pool(), way=3, shot=1, query=1, seed=5, augmentation=None)
    assert numbers(sampler.sample(0, 3)).tolist() == RECORDED


RECORDED = [[23, 45, 34, 20, 44, 36], [62, 50, 83, 65, 53, 81], [3, 26, 53, 0, 24, 55]]


@given(
    way=st.integers(2, CLASSES),
    shot=st.integers(1, EXAMPLES - 1),
    query=st.integers(1, EXAMPLES - 1),
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 10**12),
)
def test_every_episode_is_one(way: int, shot: int, query: int, seed: int, start: int) -> None:
    query = min(query, EXAMPLES - shot)
    sampler = Sampler(
        pool=numbered_pool(), way=way, shot=shot, query=query, seed=seed, augmentation=None
    )
    episodes = sampler.sample(start, 2)
    assert episodes.images.shape == (2, way * (shot + query), 1, 1, 1)
    assert episodes.support_labels.shape == (2, way * shot)
    assert episodes.query_labels.shape == (2, way * query)
    labels = torch.cat((episodes.support_labels, episodes.query_labels), 1)
    for drawn, label in zip(numbers(episodes).tolist(), labels.tolist(), strict=True):
        assert len(set(drawn)) == len(drawn)  # no image twice: support and query are disjoint
        meaning = dict(zip(label, (number // 10 for number in drawn), strict=True))
        assert sorted(meaning) == list(range(way))
        assert len(set(meaning.values())) == way  # another class for each label
        # ... and one class only
        assert all(meaning[k] == n // 10 for k, n in zip(label, drawn, strict=True))
    for k in range(way):
        assert (episodes.support_labels == k).sum(1).tolist() == [shot] * 2
        assert (episodes.query_labels == k).sum(1).tolist() == [query] * 2


def test_classes_and_examples_are_drawn_evenly() -> None:
    count, way = 4000, 3
    sampler = Sampler(pool=numbered_pool(), way=way, shot=1, query=1, seed=0, augmentation=None)
    support = numbers(sampler.sample(0, count))[:, :way]
    classes = (support // 10).flatten().bincount(minlength=CLASSES)
    examples = (support % 10).flatten().bincount(minlength=EXAMPLES)
    # Each count is binomial (a class comes at most once an episode; examples are independent);
    # 5 standard deviations are passed by chance once in 1.7 million.
    for found, trials, p in (
        (classes, count, way / CLASSES),
        (examples, count * way, 1 / EXAMPLES),
    ):
        sigma = (trials * p * (1 - p)) ** 0.5
        assert (found - trials * p).abs().max() < 5 * sigma


def test_images_are_in_the_order_of_per_task_statistics(train_pool: Pool) -> None:
    episodes = Sampler(pool=train_pool, way=5, shot=1, query=2, seed=0).sample(0, 4)
    assert episodes.images.shape == (4, 15, 1, 28, 28)
    assert episodes.images.transpose(0, 1).is_contiguous()
    assert episodes.images.dtype is torch.float32
    assert episodes.images.min() >= 0
    assert episodes.images.max() <= 1
    assert episodes.support_labels.dtype is torch.int64


def forward_map(turn: float, shear: float, scale: float, shift: Tensor) -> Tensor:
    """Input to output coordinates, composed of its three factors, (3, 3)."""
    angle = torch.tensor(turn, dtype=torch.float64)
    rotate = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[:2, :2] = scale * rotate.double() @ torch.tensor([[1.0, shear], [0, 1]]).double()
    matrix[:2, 2] = shift
    return matrix


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
def test_jitter_maps_invert_the_composed_map(draws: list[float]) -> None:
    jitter = Jitter()
    uniform = torch.tensor(draws, dtype=torch.float64)
    inverse = torch.eye(3, dtype=torch.float64)
    inverse[:2] = jitter.maps(uniform)
    signed = [2 * u - 1 for u in draws]
    forward = forward_map(
        signed[0] * torch.pi * 12 / 180,
        signed[1] * 0.15,
        0.85 + 0.27 * draws[2],
        0.14 * torch.tensor(signed[3:], dtype=torch.float64),
    )
    # The 2x2 factors are rounded to float32 in the composition above (eps 6e-8, entries ~ 1).
    assert torch.allclose(forward @ inverse, torch.eye(3).double(), atol=1e-6, rtol=0)


def test_jitter_of_no_size_changes_nothing(train_pool: Pool) -> None:
    still = Jitter(rotation=0.0, shear=0.0, smallest=1.0, largest=1.0, shift=0.0)
    base = Sampler(pool=train_pool, way=5, shot=1, query=1, seed=3, augmentation=None)
    moved = dataclasses.replace(base, augmentation=still).sample(0, 2).images
    # Bilinear weights are of coordinates up to 28 rounded to 28 eps; images are in [0, 1].
    bound = 4 * 28 * torch.finfo(torch.float32).eps
    assert (moved - base.sample(0, 2).images).abs().max() <= bound


def test_a_shift_moves_right_and_down() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[..., 4, 4] = 1
    shift = Jitter(rotation=0.0, shear=0.0, smallest=1.0, largest=1.0, shift=0.2)
    uniform: Float[Tensor, "1 5"] = torch.tensor([[0.5, 0.5, 0.5, 1.0, 0.75]])
    moved = shift.apply(image, uniform)
    # 0.2 sides of 10 pixels to the right, half of that down.
    assert moved[0, 0].argmax().item() == 5 * 10 + 6


IMPOSSIBLE = [
    ({"way": 10}, "10-way episodes .* train split has 9 classes: lower way .--train.way"),
    ({"shot": 4, "query": 4}, "need 8 images of each class, .* has 7"),
    ({"way": 1}, "way was given as 1: it must be at least 2"),
    ({"shot": 0}, "shot was given as 0"),
    ({"query": 0}, "query was given as 0"),
    ({"seed": -1}, "seed was given as -1"),
    ({"seed": 2**64}, "must be below 2\\^64"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE)
def test_impossible_requests_are_refused(change: dict[str, int], message: str) -> None:
    request = {"way": 3, "shot": 1, "query": 1, "seed": 0} | change
    way, shot, query, seed = (request[name] for name in ("way", "shot", "query", "seed"))
    with pytest.raises(EpisodeError, match=re.compile(message, re.DOTALL)):
        Sampler(pool=numbered_pool(), way=way, shot=shot, query=query, seed=seed)


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 0)])
def test_impossible_indices_are_refused(start: int, count: int) -> None:
    sampler = Sampler(pool=numbered_pool(), way=3, shot=1, query=1, seed=0)
    with pytest.raises(EpisodeError, match="index of at least 0 and a count of at least 1"):
        sampler.sample(start, count)


def test_a_jitter_without_size_is_refused() -> None:
    with pytest.raises(EpisodeError, match="must be positive, smallest first"):
        Jitter(smallest=1.2, largest=1.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_episodes_are_the_same_on_cuda(train_pool: Pool) -> None:
    base = Sampler(pool=train_pool, way=5, shot=1, query=1, seed=0)
    there = dataclasses.replace(base, pool=train_pool.to(torch.device("cuda"))).sample(0, 3)
    assert there.images.is_cuda
    # Coordinates up to 28, each from a handful of float32 operations, times slopes up to 1.
    bound = 64 * 28 * torch.finfo(torch.float32).eps
    assert (there.images.cpu() - base.sample(0, 3).images).abs().max() <= bound
    assert torch.equal(there.support_labels.cpu(), base.sample(0, 3).support_labels)
