"""The public bilevel benchmark's problems: exact gaps, counted steps, a study in small."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bilevel import methods, page, study
from benchmarks.bilevel.methods import METHODS, FullBatch, Stochastic
from benchmarks.bilevel.problems import (
    Logistic,
    Problem,
    Value,
    cleaning,
    quadratics,
    selection,
    whole,
)
from hypergrad import Bilevel, Cholesky, hypergradient
from hypergrad.implicit.linearise import Linearisation
from hypergrad.stochastic import directions


@pytest.fixture(scope="module")
def drawn() -> Problem:
    return quadratics(examples=64, size=8, p=4, q=5)


def test_the_gap_of_the_quadratics_is_that_of_their_values(drawn: Problem) -> None:
    value = Value(whole(*drawn.lower), whole(*drawn.upper), drawn.phi)
    draw = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 4, generator=draw, dtype=torch.float64)
    # the value is right to 1e-10 |df/dphi| / mu, a minimiser's gradient being 1e-10
    near = 1e-7
    assert drawn.gap(one) - drawn.gap(other) == pytest.approx(value(one) - value(other), abs=near)
    slope = value.with_slope(one)[1]
    # the gap is h - min h: by its quadratic, h(one + s) - h(one - s) = 2 s'slope
    step = 0.1 * slope
    change = drawn.gap(one + step) - drawn.gap(one - step)
    assert change == pytest.approx(float(2 * step @ slope), rel=1e-6)


def test_the_dense_value_of_the_selection_is_the_librarys() -> None:
    problem = selection(examples=400, size=40, steps=20)
    lower, upper = whole(*problem.lower), whole(*problem.upper)
    value = Logistic(problem.lower[1], problem.upper[1], problem.phi)  # type: ignore[arg-type]
    found, slope = value.with_slope(problem.theta)
    exact = hypergradient(
        Bilevel(upper=upper, lower=lower), problem.theta, value.phi, solver=Cholesky()
    )
    assert found == pytest.approx(float(exact.value), rel=1e-13)
    torch.testing.assert_close(slope, exact.grad, rtol=1e-9, atol=1e-12)
    assert problem.gap(problem.theta) > 0


def test_the_reference_of_data_cleaning_is_below_the_start() -> None:
    problem = cleaning(train=30, clean=20, size=10, steps=3)
    assert problem.gap(problem.theta) > 0.1
    assert problem.error is not None
    assert 0 < problem.error(problem.theta) < 0.9


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if isinstance(m, Stochastic)])
def test_what_a_step_computes_is_counted(
    name: str, drawn: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"lower": 0, "upper": 0}
    method: Any = METHODS[name]

    def counting(call: Any, level: str) -> Any:
        def counted(*given: Any, **named: Any) -> Any:
            counts[given[3] if level == "role" else level] += 1
            return call(*given, **named)

        return counted

    # Products alone: where a batch serves a product only, its gradient is on the way to it.
    for product in ("product", "cross"):
        monkeypatch.setattr(
            Linearisation, product, counting(getattr(Linearisation, product), "lower")
        )
    for module in ("soba", "saba", "loops", "f2sa"):
        place = f"hypergrad.stochastic.{module}.slopes"
        monkeypatch.setattr(place, counting(directions.slopes, "role"))
    path = method.path(drawn, 0.1, 0.01, 0)
    before, _ = next(path)
    assert before == (64 * sum(method.first))
    counts.update(lower=0, upper=0)
    after, _ = next(path)
    descents = {"SABA": 1, "SOBA": 1, "AmIGO": methods.INNER, "StocBiO": methods.INNER}
    counts["lower"] += descents.get(name, 0)  # gradients of g that are no products
    assert (counts["lower"], counts["upper"]) == (method.lower, method.upper)
    assert after - before == 8 * (method.lower + method.upper)


def test_full_batch_steps_descend_and_are_counted(drawn: Problem) -> None:
    path = FullBatch().path(drawn, 1.0, 0.1, 0)
    points = list(itertools.islice(path, 8))
    counts, gaps = [count for count, _ in points], [drawn.gap(theta) for _, theta in points]
    assert counts[0] == 0
    assert all(b - a >= 4 * 64 and (b - a) % 64 == 0 for a, b in itertools.pairwise(counts))
    assert all(b < a for a, b in itertools.pairwise(gaps))


def test_a_gap_is_taken_within_its_computations(drawn: Problem) -> None:
    thetas = [drawn.theta * scale for scale in (4.0, 3.0, 2.0, 1.0)]

    class Path:
        def path(self, *given: Any) -> Any:
            return iter(zip((0, 10, 20, 30), thetas, strict=True))

    found = study.trace(Path(), drawn, [10, 19, 25], 1.0, 1.0, 0)  # type: ignore[arg-type]
    wanted = [drawn.gap(thetas[place]) for place in (1, 1, 2)]
    assert found.gaps == wanted


def test_a_method_that_diverges_is_recorded(drawn: Problem) -> None:
    found = study.trace(METHODS["SOBA"], drawn, [8 * 4 * n for n in (1, 400)], 1e9, 1e9, 0)
    assert found.theta is None
    assert found.gaps[-1] is None


def test_a_study_in_small_and_its_page(drawn: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "UPPER", (1.0,))
    scale = replace(study.SCALES["quadratics"], budget=24)
    found = study.study(drawn, scale, seeds=2)
    assert list(found["methods"]) == list(METHODS)
    for name, one in found["methods"].items():
        assert len(one["ends"]) == (1 if name.startswith("Implicit") else 2)
        assert np.shape(one["quartiles"]) == (study.POINTS, 3)
        assert one["diverged"] == 0
        assert len(one["tried"]) == len(METHODS[name].steps)
    assert found["methods"]["SABA"]["quartiles"][-1][1] < found["start"]
    record = {"problems": {"quadratics": found}}
    rows = list(page.rows(record))
    assert len(rows) == len(METHODS)
    assert all(row.count("|") == 7 for row in rows)
    assert page.figure(record).count("<svg") == 1


def test_the_penalties_weight_grows_like_the_benchmarks() -> None:
    def summed(step: int) -> float:
        return 1.0 + float(0.1 * (np.arange(1, step + 1) ** (-1 / 7)).sum())

    assert methods.weight(0) == summed(0) == 1
    # a sum of a decreasing function and its integral are apart by less than the first term, 0.1
    assert all(abs(methods.weight(step) - summed(step)) < 0.1 for step in (1, 10, 100, 1000))
