"""The closed forms that the claims on tight rates compare with, by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from verification.problems.tight import (
    FatTail,
    Huber,
    LogUniform,
    Psi,
    Quadratic,
    Sawtooth,
    chain_squared_gradient,
    dyadic,
    embedded,
    horizon_quadratic,
    nesterov_chain,
)


@pytest.mark.parametrize(
    "psi",
    [
        Sawtooth(),
        Huber(L=2.0, w=0.7),
        FatTail(p=0.7),
        Quadratic(np.array([[2.0]]), np.array([0.3])),
    ],
)
def test_gradients_by_hand_are_autograds(psi: Psi) -> None:
    for u in np.linspace(-2.9, 5.2, 37):
        at = torch.tensor([u], requires_grad=True)
        (slope,) = torch.autograd.grad(psi.value(at), at)
        assert slope.numpy() == pytest.approx(psi.gradient(np.array([u])), abs=1e-14)


def test_the_sawtooth_is_as_high_as_it_says() -> None:
    height = Sawtooth().value(torch.tensor([7.0])) - Sawtooth().value(torch.tensor([-1.0]))
    assert float(height) == Sawtooth.gap(7)


@pytest.mark.parametrize("psi", [Sawtooth(), Huber(L=1.0, w=0.5)])
def test_an_embedded_problem_has_f_equal_psi(psi: Psi) -> None:
    rng = np.random.default_rng(4)
    for problem in (dyadic(psi), embedded(psi, 1, rng)):
        theta = torch.tensor([1.3], dtype=torch.float64)
        phi = torch.tensor(problem.V) @ theta
        at = phi.clone().requires_grad_()
        (slope,) = torch.autograd.grad(problem.lower(theta, at), at)
        assert float(slope.abs().max()) < 1e-15 * 100
        assert float(problem.upper(theta, phi)) == pytest.approx(float(psi.value(theta)), rel=1e-13)
        # W is not V: a single conjugate-gradient step is not exact on A with two eigenvalues
        assert not np.allclose(problem.W, problem.V)


def descend(psi: Psi, start: np.ndarray, eta: float, steps: int) -> np.ndarray:
    """theta_0, ..., theta_T of exact descent."""
    thetas = [start]
    for _ in range(steps):
        thetas.append(thetas[-1] - eta * psi.gradient(thetas[-1]))
    return np.stack(thetas)


def squares(psi: Psi, thetas: np.ndarray) -> np.ndarray:
    return np.array([float(np.square(psi.gradient(theta)).sum()) for theta in thetas])


def test_closed_forms_by_iteration() -> None:
    fixed = LogUniform(size=8, L=3.0, ratio=1e4, gap=2.0)
    reached = squares(fixed.psi, descend(fixed.psi, fixed.start, 1 / 3.0, 40))
    assert reached[[0, 7, 40]] == pytest.approx([fixed.squared_gradient(T) for T in (0, 7, 40)])
    energy = 0.5 * float(fixed.start @ fixed.psi.H @ fixed.start)
    assert energy == pytest.approx(fixed.gap)

    chain = nesterov_chain(21, 3.0)
    reached = squares(chain, descend(chain, np.zeros(21), 1 / 3.0, 20))
    wanted = [chain_squared_gradient(T, 3.0) for T in range(21)]
    assert reached == pytest.approx(wanted, rel=1e-10)

    single, share = horizon_quadratic(9, 2.0)
    start = np.array([math.sqrt(2 / single.H[0, 0])])
    reached = squares(single, descend(single, start, 1 / 2.0, 9))
    assert reached[-1] == pytest.approx(2 * 2.0 * share)


def slope(values: list[float], steps: list[int]) -> float:
    return float(np.polyfit(np.log(steps), np.log(values), 1)[0])


def test_slopes_of_the_closed_forms() -> None:
    fixed = LogUniform(size=400, L=1.0, ratio=1e6, gap=1.0)
    steps = [10, 30, 100, 300, 1000, 3000, 10000]
    assert slope([fixed.squared_gradient(T) for T in steps], steps) == pytest.approx(-1, abs=0.01)
    late = steps[1:5]
    chain = [chain_squared_gradient(T, 1.0) for T in late]
    assert slope(chain, late) == pytest.approx(-1.5, abs=0.02)


@pytest.mark.parametrize("p", [0.3, 2.0])
def test_the_fat_tail_grows_as_proved_and_no_other_way(p: float) -> None:
    psi, start, eta, steps = FatTail(p), 5.0, 1 / p, 2000
    thetas = descend(psi, np.array([start]), eta, steps)
    least, largest = psi.growth(start, eta)
    grown = np.diff([psi.potential(theta) for theta in thetas])
    assert (grown >= least * (1 - 1e-9)).all()
    assert (grown <= largest * (1 + 1e-9)).all()
    # |grad F|^2 = p^2 u^2 (1 + u^2)^-(p + 2), and the potential is linear in t
    norms, late = squares(psi, thetas), [steps // 4, steps // 2, steps]
    shifted = [int(t + psi.potential(thetas[0]) / least) for t in late]
    predicted = -(2 * p + 2) / (p + 2)
    assert slope([norms[t] for t in late], shifted) == pytest.approx(predicted, abs=0.03)
