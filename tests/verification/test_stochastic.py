"""Exact moments under sampled tasks, and exact statistics: their sizes and their power."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import chi2

from verification.claims.floor import CAP, DOF
from verification.oracles.chance import RATIOS, Evalue, surprise
from verification.oracles.moments import (
    Moments,
    SampledDescent,
    batches,
    omega,
    shared_floor,
    squared_gradient,
)
from verification.oracles.outer import Affine
from verification.suite.registry import suite

# of each statistical evaluation of a full run
SIZE = suite().allowance("full")


def drawn(rng: np.random.Generator, tasks: int, p: int, *, shared: bool) -> Affine:
    factor = rng.standard_normal((1 if shared else tasks, p, p))
    H = np.repeat(factor @ np.swapaxes(factor, -1, -2) + np.eye(p), tasks if shared else 1, axis=0)
    return Affine(H=H, d=rng.standard_normal((tasks, p)))


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_covariance_of_a_batch_mean_is_omega_over_b(batch: int, replacement: bool) -> None:
    x = np.random.default_rng(0).standard_normal((4, 2))
    every = list(batches(4, batch, replacement=replacement))
    assert sum(weight for _, weight in every) == pytest.approx(1, rel=1e-14)
    away = [(weight, x[list(chosen)].mean(0) - x.mean(0)) for chosen, weight in every]
    assert sum(w * m for w, m in away) == pytest.approx(np.zeros(2), abs=1e-15)
    covariance = sum(w * np.outer(m, m) for w, m in away)
    share = omega(4, batch, replacement=replacement) / batch
    assert covariance == pytest.approx(share * np.cov(x.T, bias=True), rel=1e-12, abs=1e-15)


def test_stationary_covariance_is_scipys_and_the_closed_forms() -> None:
    rng = np.random.default_rng(1)
    for share in (1.0, 0.25):
        maps = drawn(rng, 5, 3, shared=True)
        H, d = maps.mean
        eta = 0.7 / float(np.linalg.norm(H, 2))
        reached = SampledDescent(maps, eta, share).stationary()
        covariance = np.cov(maps.d.T, bias=True)
        G = np.eye(3) - eta * H
        scipys = solve_discrete_lyapunov(G, eta**2 * share * covariance)
        # condition of both solves: 1/(1 - |G|^2), below a few hundred here
        assert reached.covariance == pytest.approx(scipys, rel=1e-10, abs=1e-13)
        floor = shared_floor(H, covariance, eta, share)
        assert squared_gradient(reached, H, d) == pytest.approx(floor, rel=1e-10)


def test_stationary_moments_are_the_recursions_limit() -> None:
    maps = drawn(np.random.default_rng(2), 4, 3, shared=False)
    eta = 0.3 / float(np.linalg.norm(maps.H, 2, axis=(-2, -1)).max())
    descent = SampledDescent(maps, eta, 0.5)
    now = Moments(np.ones(3), np.zeros((3, 3)))
    for _ in range(3000):
        now = descent.step(now)
    limit = descent.stationary()
    assert now.mean == pytest.approx(limit.mean, rel=1e-9)
    assert now.covariance == pytest.approx(limit.covariance, rel=1e-9, abs=1e-14)


def test_steps_that_have_no_limit_are_refused() -> None:
    maps = drawn(np.random.default_rng(3), 4, 2, shared=False)
    with pytest.raises(ArithmeticError, match="Take a smaller eta"):
        SampledDescent(maps, 10.0, 0.5).stationary()


@pytest.mark.parametrize("size", [0.05, 1e-6, SIZE])
def test_surprise_has_its_size_exactly(size: float) -> None:
    for dof in (8, DOF):
        low, high = chi2.ppf(size / 2, dof), chi2.isf(size / 2, dof)
        limit = math.log(1 / size)
        assert surprise(float(low), dof) == pytest.approx(limit, rel=1e-9)
        assert surprise(float(high), dof) == pytest.approx(limit, rel=1e-9)
        assert surprise(float(chi2.median(dof)), dof) < 1e-9


def test_the_theory_note_says_the_size_that_a_full_run_allows() -> None:
    page = Path(__file__).parents[2] / "docs" / "theory.md"
    mantissa, exponent = f"{SIZE:.1e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert f"the size that a full run allows, {mantissa}·10{digits}," in page.read_text("utf-8")


def test_power_of_the_fixed_test() -> None:
    low, high = chi2.ppf(SIZE / 2, DOF), chi2.isf(SIZE / 2, DOF)
    for ratio in (0.25, 0.5, 2.0, 4.0):
        missed = chi2.cdf(high / ratio, DOF) - chi2.cdf(low / ratio, DOF)
        assert missed < 1e-3, ratio


@pytest.mark.parametrize("dof", [4, 16, 64])
def test_the_mixture_is_a_martingale(dof: int) -> None:
    def mass(total: float) -> float:
        return math.exp(Evalue().seen(total, dof).log + float(chi2.logpdf(total, dof)))

    # the heaviest tail, of ratio 8, falls like e^(-S/16): nothing is left at 16 (64 + 8 dof)
    pieces = np.linspace(0, 16 * (64 + 8 * dof), 60)
    whole = sum(quad(mass, low, high)[0] for low, high in itertools.pairwise(pieces))
    assert whole == pytest.approx(1, rel=1e-6)


def first_above(normals: np.ndarray, level: float) -> np.ndarray:
    """After how many of each row's numbers the mixture first exceeds the level; -1 for never."""
    total = np.cumsum(np.square(normals), axis=1)
    logs = np.array(
        [
            [Evalue().seen(float(row[n - 1]), n).log for n in range(8, len(row) + 1, 8)]
            for row in total
        ]
    )
    above = logs > math.log(1 / level)
    return np.where(above.any(1), 8 * (above.argmax(1) + 1), -1)


def test_false_alarms_of_the_sequential_test() -> None:
    honest = np.random.default_rng(7).standard_normal((100, CAP))
    assert (first_above(honest, SIZE) == -1).all()
    # at level 0.05: binomial(100, 0.05) exceeds 20 with probability 1e-8
    assert (first_above(honest, 0.05) > 0).sum() <= 20


@pytest.mark.parametrize("ratio", [0.25, 0.5, 2.0, 4.0])
def test_power_of_the_sequential_test(ratio: float) -> None:
    """Exact: the mixture is at least its own ratio's term, which exceeds 1/a where S passes s.

    -n/2 ln r + S (1 - 1/r)/2 - ln 7 = ln(1/a) at S = s, and S/r is chi-square at the last step.
    """
    level = math.log(1 / SIZE) + math.log(len(RATIOS)) + CAP / 2 * math.log(ratio)
    edge = 2 * level / (1 - 1 / ratio)
    law = chi2(CAP, scale=ratio)
    assert Evalue().seen(edge, CAP).log >= math.log(1 / SIZE) - 1e-9
    assert (law.cdf(edge) if ratio > 1 else law.sf(edge)) < 1e-3
