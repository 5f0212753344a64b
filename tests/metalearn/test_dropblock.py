"""DropBlock: how often it drops, what it drops, and how it scales what is left."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn.backbones import DropBlock
from metalearn.errors import ConfigError

IMAGES, CHANNELS, HEIGHT, WIDTH = 40, 250, 7, 9
RATE, BLOCK = 0.2, 3


@pytest.fixture
def kept() -> Tensor:
    """Where a constant image is kept, by image and channel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ones = torch.ones(IMAGES, CHANNELS, HEIGHT, WIDTH)
        answer: Tensor = DropBlock(rate=RATE, block=BLOCK)(ones)
    return answer > 0


def places() -> Tensor:
    """How many squares cover each pixel, (HEIGHT, WIDTH), by going through all of them."""
    count = torch.zeros(HEIGHT, WIDTH)
    for top in range(HEIGHT - BLOCK + 1):
        for left in range(WIDTH - BLOCK + 1):
            count[top : top + BLOCK, left : left + BLOCK] += 1
    return count


def test_each_pixel_is_kept_as_often_as_no_square_covers_it(kept: Tensor) -> None:
    gamma = RATE * HEIGHT * WIDTH / (BLOCK**2 * (HEIGHT - BLOCK + 1) * (WIDTH - BLOCK + 1))
    found, draws = kept.float().mean((0, 1)), IMAGES * CHANNELS

    def within(gamma: float) -> bool:
        expected = (1 - gamma) ** places()
        # A mean of independent draws: beyond 6 standard deviations once in 5e8.
        return bool(
            ((found - expected).abs() <= 6 * (expected * (1 - expected) / draws).sqrt()).all()
        )

    assert within(gamma)
    assert not within(RATE / BLOCK**2)  # without the correction for the edges
    assert not within(gamma * BLOCK)  # with a block's side in place of its area


def test_the_rate_is_that_of_squares_which_never_meet(kept: Tensor) -> None:
    # sum over pixels of gamma * places = gamma * (squares) * block^2 = rate * pixels: the union
    # bound on what is dropped, from which it falls short by pairs of squares only.
    gamma = DropBlock(rate=RATE, block=BLOCK).gamma(HEIGHT, WIDTH)
    assert float(places().sum()) * gamma == pytest.approx(RATE * HEIGHT * WIDTH, rel=1e-6)
    dropped = 1 - float(kept.float().mean())
    assert RATE * (1 - RATE) < dropped < RATE


def test_what_is_dropped_is_made_of_whole_squares(kept: Tensor) -> None:
    dropped = (~kept).float()
    inside = -F.max_pool2d(-dropped, BLOCK, stride=1)  # 1 where a whole square is dropped
    grown = F.max_pool2d(F.pad(inside, (BLOCK - 1,) * 4), BLOCK, stride=1)
    assert torch.equal(grown, dropped)
    assert 0 < dropped.mean() < 1


def test_an_images_sum_is_kept_and_no_other_image_plays_a_part() -> None:
    drop = DropBlock(rate=RATE, block=BLOCK).double()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        answer = drop(torch.ones(IMAGES, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64))
    count = CHANNELS * HEIGHT * WIDTH
    # One division and 15,750 additions in float64; the factor itself is a float32's quotient.
    assert torch.allclose(
        answer.sum((1, 2, 3)), torch.full((IMAGES,), float(count), dtype=torch.float64), rtol=1e-6
    )
    factors = answer.flatten(1).amax(1)
    assert len(factors.unique()) > IMAGES / 2  # each image its own


def test_blocks_of_one_pixel_are_dropout() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        answer = DropBlock(rate=RATE, block=1)(torch.ones(IMAGES, CHANNELS, HEIGHT, WIDTH))
    draws = answer.numel()
    share = float((answer == 0).float().mean())
    assert abs(share - RATE) <= 6 * (RATE * (1 - RATE) / draws) ** 0.5


def test_nothing_happens_in_testing_or_at_rate_0() -> None:
    x = torch.rand(2, 3, HEIGHT, WIDTH)
    assert DropBlock(rate=RATE, block=BLOCK).eval()(x) is x
    assert DropBlock(rate=0.0, block=BLOCK)(x) is x


def test_refusals() -> None:
    for rate, block in ((1.0, 1), (-0.1, 1), (0.1, 0)):
        with pytest.raises(ConfigError, match="a rate in \\[0, 1\\) and a block of at least 1"):
            DropBlock(rate=rate, block=block)
    with pytest.raises(ConfigError, match="4 x 9 pixels for squares of side 5: lower block"):
        DropBlock(rate=0.1, block=5)(torch.ones(1, 1, 4, 9))
