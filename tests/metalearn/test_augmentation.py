"""Augmentation: each image by its own draws, and by nothing else."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metalearn.data import Pool
from metalearn.errors import EpisodeError
from metalearn.tasks.augmentation import Augmentation, Jitter, Photo
from metalearn.tasks.episodes import Sampler

STILL = Photo(padding=0, mirror=False, brightness=0.0, contrast=0.0, saturation=0.0)
SIZE = 8
EPS = torch.finfo(torch.float32).eps


def photos(classes: int = 6, examples: int = 4) -> Pool:
    pixels = torch.randint(
        0, 256, (classes, examples, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)
    )
    return Pool(pixels.to(torch.uint8), "train", tuple("abcdef"))


def uniform(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


MIDDLE = (0.0, 0.0, 0.0, 0.5, 0.5, 0.5)


def test_both_are_augmentations() -> None:
    assert isinstance(Photo(), Augmentation)
    assert isinstance(Jitter(), Augmentation)


def test_no_strength_changes_nothing() -> None:
    images = photos().images.flatten(0, 1).float() / 255
    draws = torch.rand(len(images), 6, generator=torch.Generator().manual_seed(1))
    # lerp(a, x, 1) = x - (x - a) 0, exactly.
    assert torch.equal(STILL.apply(images, draws), images)


@given(
    down=st.floats(0, 1 - 2**-24, width=32),
    right=st.floats(0, 1 - 2**-24, width=32),
    mirrored=st.booleans(),
    padding=st.integers(0, 9),
)
def test_a_crop_is_a_window_of_the_padded_image(
    down: float, right: float, mirrored: bool, padding: int
) -> None:
    image = photos().images[0, :1].float() / 255
    photo = dataclasses.replace(STILL, padding=padding, mirror=True)
    found = photo.apply(image, uniform((down, right, 0.75 * mirrored, 0.5, 0.5, 0.5)))
    top, left = int(down * (2 * padding + 1)), int(right * (2 * padding + 1))
    wide = torch.zeros(1, 3, SIZE + 2 * padding, SIZE + 2 * padding)
    wide[..., padding : padding + SIZE, padding : padding + SIZE] = (
        image.flip(3) if mirrored else image
    )
    # Mirrored and then cropped to the right is cropped to the left and then mirrored.
    left = left if not mirrored else 2 * padding - left
    assert torch.equal(found, wide[..., top : top + SIZE, left : left + SIZE])


def test_places_of_a_crop_are_even() -> None:
    # The largest draw is the last place; each place has the same share of the draws.
    padding = 4
    draws = (torch.arange(2**16) / 2**16).float()
    counts = (draws * (2 * padding + 1)).long().bincount()
    assert len(counts) == 2 * padding + 1
    assert counts.max() - counts.min() <= 1


def test_colours_change_as_described() -> None:
    image = torch.full((1, 3, SIZE, SIZE), 0.25)
    image[:, 0, : SIZE // 2] = 0.5
    red_grey, grey = 0.25 + 0.299 * 0.25, 0.25
    mean = (red_grey + grey) / 2

    def changed(photo: Photo, *draws: float) -> tuple[float, float]:
        found = photo.apply(image, uniform((0.0, 0.0, 0.0, *draws)))
        return found[0, 0, 0, 0].item(), found[0, 1, 0, 0].item()

    # Draw 1 is the largest change upwards, 0 downwards. Sums of few numbers below 1.
    bright = dataclasses.replace(STILL, brightness=0.4)
    assert changed(bright, 1.0, 0.5, 0.5) == pytest.approx((0.7, 0.35), abs=8 * EPS)
    flat = dataclasses.replace(STILL, contrast=1.0)
    assert changed(flat, 0.5, 0.0, 0.5) == pytest.approx((mean, mean), abs=8 * EPS)
    pale = dataclasses.replace(STILL, saturation=1.0)
    assert changed(pale, 0.5, 0.5, 0.0) == pytest.approx((red_grey, red_grey), abs=8 * EPS)
    vivid = changed(pale, 0.5, 0.5, 1.0)
    expected = (2 * 0.5 - red_grey, 2 * 0.25 - red_grey)
    assert vivid == pytest.approx(expected, abs=8 * EPS)


def test_episodes_stay_a_pure_function_of_their_index() -> None:
    sampler = Sampler(pool=photos(), way=4, shot=1, query=2, seed=3, augmentation=Photo(padding=2))
    together = sampler.sample(0, 4)
    for index in (3, 0):
        assert torch.equal(sampler.sample(index, 1).images[0], together.images[index])
    assert 0 <= together.images.min() <= together.images.max() <= 1
    still = dataclasses.replace(sampler, augmentation=None).sample(0, 4)
    assert torch.equal(still.support_labels, together.support_labels)
    # The same images are drawn, whatever is done to them afterwards.
    none = dataclasses.replace(sampler, augmentation=STILL).sample(0, 4)
    assert torch.equal(still.images, none.images)


def test_turned_characters_are_classes_of_their_own() -> None:
    pool = photos()
    turned = pool.rotated()
    assert (turned.classes, turned.examples, turned.split) == (24, 4, "train")
    assert len(set(turned.names)) == 24
    # A quarter turn is against the clock: the top right corner comes to the top left.
    assert torch.equal(turned.images[6, 0, :, 0, 0], pool.images[0, 0, :, 0, -1])
    for quarters in range(4):
        back = turned.images[6 * quarters : 6 * quarters + 6].rot90(-quarters, (3, 4))
        assert torch.equal(back, pool.images)


def test_refusals() -> None:
    with pytest.raises(EpisodeError, match="padding was given as -1"):
        Photo(padding=-1)
    with pytest.raises(EpisodeError, match="contrast was given as 2"):
        Photo(contrast=2.0)
    with pytest.raises(EpisodeError, match="3 channels, and images have 1"):
        Photo().apply(torch.zeros(1, 1, 4, 4), torch.zeros(1, 6))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_photos_are_the_same_on_cuda() -> None:
    pool = photos()
    here = Sampler(pool=pool, way=4, shot=1, query=2, seed=3, augmentation=Photo(padding=2))
    for there in (
        pool.to(torch.device("cuda")),
        dataclasses.replace(pool, target=torch.device("cuda")),
    ):
        found = dataclasses.replace(here, pool=there).sample(0, 3).images
        assert found.is_cuda
        # A handful of float32 operations on numbers below 2; the mean of SIZE^2 of them.
        assert (found.cpu() - here.sample(0, 3).images).abs().max() <= 2 * SIZE**2 * EPS
