"""Calibration against counts by hand."""

import math

import pytest
import torch

from metalearn.testing.calibration import BINS, calibration


def logits(probability: float) -> list[float]:
    """Two classes, the first with this probability."""
    return [math.log(probability / (1 - probability)), 0.0]


def test_by_hand() -> None:
    # Four answers at 0.9 (bin 13), three of them right; two at 0.62 (bin 9), one of them right.
    given = [logits(0.9)] * 4 + [logits(0.62)] * 2
    labels = [0, 0, 0, 1, 0, 1]
    found = calibration(torch.tensor(given), torch.tensor(labels))
    assert found.counts == [0] * 9 + [2] + [0] * 3 + [4, 0]
    assert found.accuracy[13] == pytest.approx(0.75)
    assert found.confidence[9] == pytest.approx(0.62)
    assert found.error == pytest.approx((4 * 0.15 + 2 * 0.12) / 6)
    losses = [math.log(0.9)] * 3 + [math.log(0.1), math.log(0.62), math.log(0.38)]
    assert found.log_loss == pytest.approx(-sum(losses) / 6)


def test_certainty_is_in_the_last_bin_and_right_answers_cost_nothing() -> None:
    found = calibration(torch.tensor([[200.0, 0.0]] * 3), torch.tensor([0, 0, 0]))
    assert found.counts[BINS - 1] == 3
    assert (found.error, found.log_loss) == (0.0, 0.0)


def test_a_learner_that_says_what_it_knows_has_no_error() -> None:
    # Labels drawn from the stated probabilities: what is left is chance, of the order 1/sqrt(n) a
    # bin; Hoeffding: all of 15 bins within t of their mean but for 30 exp(-2 n t^2) = 1e-9.
    generator = torch.Generator().manual_seed(0)
    count = 20_000
    scores = torch.randn(count, 3, generator=generator)
    labels = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
    found = calibration(scores, labels)
    bound = sum(math.sqrt(math.log(3e10) / 2 * n) for n in found.counts) / count
    assert found.error <= bound
    overconfident = calibration(5 * scores, labels)
    assert overconfident.error > 2 * bound
