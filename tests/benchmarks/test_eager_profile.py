"""The profile of a small hypergradient: parts make a whole, and the bare calls give its answer."""

from __future__ import annotations

import time
from itertools import count

import pytest

from benchmarks.eager_profile import PARTS, REST, Clock, bare, shares
from benchmarks.peer_cases import Case, quadratic
from hypergrad.linear.cholesky import Cholesky


@pytest.fixture(scope="module")
def case() -> Case:
    return quadratic(6)


def test_parts_make_a_whole(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()  # each look at the clock takes as long, so that all rounds are alike
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    solve = Cholesky.solve
    found = shares(case, rounds=3)
    assert found.keys() == {*PARTS, REST}
    assert all(share > 0 for share in found.values())
    assert sum(found.values()) == pytest.approx(1, rel=1e-12)
    assert Cholesky.solve is solve  # no clock is left


@pytest.mark.parametrize("dense", [True, False])
def test_the_bare_calls_give_the_hypergradient(case: Case, dense: bool) -> None:
    # rounding times kappa = 100; CG's own tolerance times kappa
    assert case.error(bare(case, dense=dense)) < (1e-12 if dense else 1e-4)


def test_a_part_is_without_the_parts_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((0.0, 1.0, 21.0, 22.0))  # the outer begins, the inner begins, and both end
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock()
    inner = clock.around(lambda: None, "inner")
    clock.around(inner, "outer")()
    assert clock.spent == {"inner": 20.0, "outer": 2.0}
