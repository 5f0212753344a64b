"""The adaptive mode: what it accepts is that exact, and outer descent with it reaches the end."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hypergrad import CG, Bilevel, GradientDescent, Newton, hypergradient
from hypergrad.constants import Constants, Estimated, Proven
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.theory.adaptive import AccuracyError, Certified, solve_adaptively
from tests.hypergrad.bounds import FAMILIES, constants_of, remembered_minimisers
from verification.oracles import gradient, tolerance
from verification.problems import LC
from verification.problems.drawn import Instance, lc

FEW = CG(max_steps=2, rtol=0.0)


def certified(
    instance: Instance, nu: float, *, steps: int = 3, max_steps: int = 2
) -> Certified[Tensor, Tensor]:
    constants = constants_of(instance)
    L = torch.as_tensor(constants.smoothness.value if constants.smoothness else 0.0)
    theta, phi0, _ = instance.tensors()
    return solve_adaptively(
        instance.family.bilevel(),
        theta,
        phi0,
        constants=constants,
        nu=nu,
        by=GradientDescent(max_steps=steps, step_size=1 / float(L.max())),
        solver=CG(max_steps=max_steps, rtol=0.0),
        max_rounds=5_000,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_accepted_is_within_its_share(family: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(2):
        with remembered_minimisers():
            instance = FAMILIES[family](rng, 4, 5)
            nu = float(10 ** rng.uniform(-3, -0.1))
            found = certified(instance, nu, steps=100, max_steps=6)
            exact = gradient(instance.family, instance.theta)
            rounding = tolerance(instance.family, instance.theta)
        error = float(np.linalg.norm(found.hypergradient.grad.numpy() - exact))
        size = float(found.hypergradient.grad.norm())
        assert isinstance(found.error, Proven)
        assert float(found.error.value) <= nu * size
        assert found.share == pytest.approx(float(found.error.value) / size)
        assert error <= float(found.error.value) + rounding
        assert error <= nu * size + rounding


def problem() -> Instance:
    return lc(seed=4, batch=(5,), p=3, q=4, condition=20.0)


def test_adaptive_descent_converges_where_cold_starts_stall() -> None:
    instance = problem()
    family, bilevel = instance.family, instance.family.bilevel()
    assert isinstance(family, LC)
    theta0, phi0, _ = instance.tensors()
    k = constants_of(instance)  # but for V, which no certificate needs, LC's hold at every theta
    assert k.smoothness
    by = GradientDescent(
        max_steps=4, step_size=1 / float(torch.as_tensor(k.smoothness.value).max())
    )
    nu, eta, T = 0.5, 0.05, 80

    cold = theta0
    for _ in range(T):
        phi = by.minimise(bilevel.lower, cold, phi0).phi
        cold = cold - eta * hypergradient(bilevel, cold, phi, solver=FEW).grad
    stalled = float(np.linalg.norm(gradient(family, cold.numpy())))

    theta, phi, v = theta0, phi0, torch.zeros_like(phi0)
    sizes, rounds = [], []
    for _ in range(T):
        found = solve_adaptively(
            bilevel, theta, phi, constants=k, nu=nu, by=by, solver=FEW, start=v
        )
        exact = gradient(family, theta.numpy())
        error = np.linalg.norm(found.hypergradient.grad.numpy() - exact)
        assert error <= nu * float(found.hypergradient.grad.norm())
        theta = theta - eta * found.hypergradient.grad
        phi, v = found.phi, found.v
        sizes.append(float(np.linalg.norm(exact)))
        rounds.append(found.rounds)
    print(  # noqa: T201
        f"\ncold starts stall at |grad F| = {stalled:.3g}; adaptive: {sizes[0]:.3g} -> "
        f"{sizes[-1]:.3g}, median rounds {np.median(rounds)}, most {max(rounds)}"
    )
    assert sizes[-1] < 1e-2 * stalled


def run_until_refused(dtype: torch.dtype, nu: float) -> AccuracyError:
    instance = problem()
    theta, phi0, _ = instance.tensors(dtype)
    k = constants_of(instance)
    assert k.smoothness
    by = GradientDescent(
        max_steps=20, step_size=1 / float(torch.as_tensor(k.smoothness.value).max())
    )
    with pytest.raises(AccuracyError) as caught:
        solve_adaptively(
            instance.family.bilevel(dtype),
            theta,
            phi0,
            constants=k,
            nu=nu,
            by=by,
            solver=CG(max_steps=8, rtol=0.0),
        )
    return caught.value


@pytest.mark.parametrize(("dtype", "nu"), [(torch.float64, 1e-15), (torch.float32, 1e-7)])
def test_exhausted_precision_is_reported(dtype: torch.dtype, nu: float) -> None:
    refused = run_until_refused(dtype, nu)
    assert "this precision is exhausted" in str(refused)
    assert "in round" in str(refused)
    assert nu < refused.best.share < 1e6 * nu  # as far as this precision goes
    assert refused.best.rounds < 1000


def test_too_few_rounds_are_reported_with_the_best() -> None:
    instance = problem()
    theta, phi0, _ = instance.tensors()
    with pytest.raises(AccuracyError, match="3 rounds were not enough; allow more") as caught:
        solve_adaptively(
            instance.family.bilevel(),
            theta,
            phi0,
            constants=constants_of(instance),
            nu=1e-6,
            by=GradientDescent(max_steps=1, step_size=1e-3),
            solver=FEW,
            max_rounds=3,
        )
    assert isinstance(caught.value.best, Certified)


def test_estimated_constants_give_an_estimated_error() -> None:
    instance = problem()
    theta, phi0, _ = instance.tensors()
    given = constants_of(instance)
    entries = {name: getattr(given, name) for name in Constants.__slots__}
    entries["coupling"] = Estimated(entries["coupling"].value)
    found = solve_adaptively(
        instance.family.bilevel(),
        theta,
        phi0,
        constants=Constants(**entries),
        nu=0.1,
        by=Newton(),
        solver=CG(),
    )
    assert isinstance(found.error, Estimated)


def test_a_zero_hypergradient_with_a_zero_bound_is_accepted() -> None:
    one, zero = Proven(1.0), Proven(0.0)
    constants = Constants(
        strong_convexity=one,
        coupling=one,
        upper_coupling=zero,
        upper_smoothness=one,
        hessian_lipschitz=zero,
        coupling_lipschitz=zero,
    )
    flat: Bilevel[Tensor, Tensor] = Bilevel(
        lower=lambda theta, phi: (phi - theta).square().sum(-1) / 2,
        upper=lambda theta, phi: phi.square().sum(-1) / 2,
    )
    theta = torch.zeros(2)
    by = GradientDescent(max_steps=1, step_size=1.0)
    found = solve_adaptively(
        flat, theta, theta.clone(), constants=constants, nu=0.5, by=by, solver=CG()
    )
    assert found.share == 0.0


@pytest.mark.parametrize("nu", [0.0, 1.0, 2.0, -0.1, float("nan")])
def test_a_share_outside_0_1_is_refused(nu: float) -> None:
    with pytest.raises(InputError, match=r"must be in \(0, 1\)"):
        certified(problem(), nu)


def test_a_bound_that_is_no_number_is_not_accepted() -> None:
    given = problem()
    huge = {
        name: Proven(torch.tensor(1e200, dtype=torch.float64))
        for name in ("coupling", "upper_smoothness", "hessian_lipschitz")
    }
    bound = constants_of(given)
    theta, phi0, _ = given.tensors()
    lower = given.family.bilevel()
    by = GradientDescent(max_steps=3, step_size=0.01)
    with pytest.raises(NotFiniteError, match="bound on the hypergradient's error of task 0"):
        solve_adaptively(
            lower, theta, phi0, constants=replace(bound, **huge), nu=0.5, by=by, solver=FEW
        )
    # made behind the constructor's back, where it refuses a NaN
    object.__setattr__(bound, "upper_coupling", Proven(float("nan")))
    with pytest.raises(NotFiniteError, match="bound on the hypergradient's error"):
        solve_adaptively(lower, theta, phi0, constants=bound, nu=0.5, by=by, solver=FEW)


def test_the_error_crosses_a_process() -> None:
    error = run_until_refused(torch.float32, 1e-6)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is AccuracyError
    assert str(back) == str(error)
    assert back.best.rounds == error.best.rounds
    assert torch.equal(back.best.hypergradient.grad, error.best.hypergradient.grad)
    again = pickle.loads(pickle.dumps(back))
    assert str(again) == str(error)
