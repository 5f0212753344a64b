"""What the claims on convergence stand on: observed iterates, affine maps, planned counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from verification.claims.observed import DivergedError, observe
from verification.claims.warm_starts import strongly_convex
from verification.oracles import finite_steps, gradient
from verification.oracles.outer import affine, outer_constants, value
from verification.problems import LC, Quad
from verification.problems import drawn as instances
from verification.subjects.algorithm1 import memory_reduced


def test_what_a_subject_computed_can_be_observed() -> None:
    instance = instances.lc(seed=3, batch=(3,), p=2, q=4, condition=20.0)
    counts = {
        "steps": 4,
        "max_steps": 2,
        "step_size": 0.9 / instance.family.constants(instance.theta).smoothness.max(),
    }
    at = (instance.theta, instance.phi0, instance.v0)
    exact = finite_steps(instance.family, *at, **counts)
    seen = observe(memory_reduced, instance.family.bilevel(), *at, **counts)
    # well-conditioned: theory.md, section 6, with kappa = 20 and a margin of ten
    for got, wanted in ((seen.h, exact.mean), (seen.phi, exact.phi), (seen.v, exact.v)):
        assert np.allclose(got, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9])
def test_what_no_correct_subject_returns_is_an_error(value: float) -> None:
    def broken(problem: object, theta: torch.Tensor, *args: object, **counts: object) -> object:
        return torch.full_like(theta, value)

    instance = instances.quad(seed=0, batch=(), p=2, q=2, condition=5.0)
    at = (instance.theta, instance.phi0, None)
    with pytest.raises(DivergedError, match="no correct one"):
        observe(broken, instance.family.bilevel(), *at, steps=2, max_steps=2, step_size=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("draw", [instances.quad, instances.lc])
def test_value_and_gradient_of_the_upper_objective_agree(draw: object) -> None:
    assert callable(draw)
    instance = draw(seed=1, batch=(2,), p=3, q=4, condition=10.0)
    family, theta = instance.family, instance.theta
    direction = np.array([0.6, -0.64, 0.48])
    t = 1e-5  # central differences: t^2 of truncation, u/t of rounding
    slope = (value(family, theta + t * direction) - value(family, theta - t * direction)) / (2 * t)
    assert slope == pytest.approx(float(gradient(family, theta) @ direction), rel=1e-6, abs=1e-6)


def test_the_affine_map_is_what_finitely_many_steps_compute() -> None:
    instance = instances.quad(seed=2, batch=(3,), p=3, q=4, condition=10.0)
    family = instance.family
    assert isinstance(family, Quad)
    step_size = 0.9 / float(family.constants(instance.theta).smoothness.max())
    maps = affine(family, instance.phi0, steps=5, step_size=step_size)
    cold = np.zeros_like(instance.v0)
    for theta in np.random.default_rng(0).standard_normal((4, 3)):
        exact = finite_steps(
            family, theta, instance.phi0, cold, steps=5, max_steps=4, step_size=step_size
        )
        assert np.allclose(maps.H @ theta - maps.d, exact.tasks, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("draw", [instances.quad, instances.lc])
def test_planned_counts_meet_what_the_proof_of_theorem_2_needs(draw: object) -> None:
    assert callable(draw)
    for seed in range(20):
        instance = draw(seed=seed, batch=(2,), p=3, q=4, condition=float(2 + 10 * seed))
        family = instance.family
        assert isinstance(family, Quad | LC)
        c = outer_constants(family, instance.theta)
        eta, step_size = 1 / c.smoothness, 1 / c.L
        shrink, drift = c.warm_rates(*c.warm_counts(eta, step_size), step_size)
        assert shrink <= 1 / 4
        assert eta * drift <= 1 / 4


def test_a_strongly_convex_problem_is_one() -> None:
    instance, m = strongly_convex(instances.quad(seed=5, batch=(3,), p=3, q=4, condition=6.0))
    assert isinstance(instance.family, Quad)
    spectrum = np.linalg.eigvalsh(instance.family.normal_equations()[0].mean(0))
    assert spectrum[0] == pytest.approx(m)
    assert spectrum[-1] <= 2 * m * (1 + 1e-12)
