"""The sampler's acceptance regions against exact tails, and what planted bugs do to them."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from scipy import stats

from tests.verification.detection import SIZE
from verification.claims.sampler import (
    BATCH,
    BUGS,
    STEPS,
    TASKS,
    c7,
    inclusion_region,
    overlap_region,
    uniform,
)
from verification.suite.model import Bug

REGION = SIZE / 3


def test_inclusions_leave_the_region_with_their_size_at_most() -> None:
    low, high = inclusion_region(REGION)
    law, each = stats.binom(STEPS, BATCH / TASKS), REGION / TASKS / 2
    # the largest region: one more on either side would be too much
    assert law.cdf(low - 1) <= each < law.cdf(low)
    assert law.sf(high) <= each < law.sf(high - 1)


@pytest.mark.parametrize("pairs", [1, 7])
def test_overlaps_leave_the_region_with_their_size_at_most(pairs: int) -> None:
    """In rationals: the law of a sum of hypergeometric numbers, with nothing rounded."""
    whole = comb(TASKS, BATCH)
    single = [Fraction(comb(BATCH, k) * comb(TASKS - BATCH, BATCH - k), whole) for k in range(6)]
    law = [Fraction(1)]
    for _ in range(pairs):
        wider = [Fraction(0)] * (len(law) + BATCH)
        for i, left in enumerate(law):
            for k, right in enumerate(single):
                wider[i + k] += left * right
        law = wider
    assert sum(law) == 1
    size = 0.01
    low, high = overlap_region(size, pairs=pairs)
    assert sum(law[:low]) <= size / 2 < sum(law[: low + 1])
    assert sum(law[high + 1 :]) <= size / 2 < sum(law[high:])


def test_power_against_an_inclusion_that_is_off() -> None:
    """A task drawn 1.93 times too often is seen with a chance of 0.999 in 400 steps at least."""
    _, high = inclusion_region(1e-9)
    assert stats.binom(STEPS, 1.93 * BATCH / TASKS).sf(high) > 0.999


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_sampler_with_a_bug_is_noticed_whatever_the_seed(bug: Bug) -> None:
    assert all(not c7(bug.subject, seed, SIZE).holds for seed in range(3))
    assert c7(uniform, 3, SIZE).holds
