"""Against rationals and enclosures: the oracles agree with each other, the library with them."""

import numpy as np
import pytest
import torch

from hypergrad import Bilevel
from verification.claims.exact_arithmetic import exact_arithmetic, rounded
from verification.oracles import adjoint, finite_steps, gradient, rational, tolerance
from verification.oracles import enclosures as balls
from verification.problems import LC, Quad
from verification.problems import drawn as instances
from verification.subjects.algorithm1 import memory_reduced

SEEDS = range(4)


def quad(seed: int) -> instances.Instance:
    return instances.quad(seed=seed, batch=(2,), p=3, q=4, condition=30.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_enclosures_contain_the_rational_gradient(seed: int) -> None:
    drawn = quad(seed)
    assert isinstance(drawn.family, Quad)
    exact = rational.gradient(drawn.family, drawn.theta)
    for bits in (64, 128, 256):
        enclosure = balls.quad_gradient(drawn.family, drawn.theta, bits)
        assert enclosure.contains(exact)
        # 2^-bits of numbers below 2^7, magnified by kappa = 30 and a few dozen operations
        assert balls.radius(enclosure) < 2.0 ** (20 - bits)


@pytest.mark.parametrize("seed", SEEDS)
def test_rationals_agree_with_float64_up_to_its_rounding(seed: int) -> None:
    drawn = quad(seed)
    family, theta = drawn.family, drawn.theta
    assert isinstance(family, Quad)
    allowed = tolerance(family, theta)
    assert rational.distance(gradient(family, theta), rational.gradient(family, theta)) < allowed
    found = zip(family.minimiser(theta), adjoint(family, theta), strict=True)
    exact = zip(rational.minimisers(family, theta), rational.adjoints(family, theta), strict=True)
    for (phi, v), (exact_phi, exact_v) in zip(found, exact, strict=True):
        # kappa u times a few dozen, relative: LAPACK's backward error at kappa = 30
        assert rational.distance(phi, exact_phi) < 1e-12 * (1 + np.linalg.norm(phi))
        assert rational.distance(v, exact_v) < 1e-12 * (1 + np.linalg.norm(v))


def test_rational_krylov_ends_where_the_space_does() -> None:
    # N beyond the dimension, and a residual of zero: both give the exact adjoint
    drawn = quad(0)
    family, theta = drawn.family, drawn.theta
    assert isinstance(family, Quad)
    # alpha is special in nothing: phi_0 is the float minimiser, and K = 0
    for v0 in (drawn.v0, np.zeros_like(drawn.v0)):
        answer = rational.finite_steps(
            family, theta, family.minimiser(theta), v0, steps=0, max_steps=9, step_size=0.5
        )
        assert rational.distance(gradient(family, theta), answer) < tolerance(family, theta)
    still = rational.finite_steps(
        family, theta, drawn.phi0, drawn.v0, steps=2, max_steps=2, step_size=0.125
    )
    floats = finite_steps(
        family, theta, drawn.phi0, drawn.v0, steps=2, max_steps=2, step_size=0.125
    )
    assert rational.distance(floats.mean, still) < 1e-11 * rational.norm(still)


@pytest.mark.parametrize("seed", SEEDS)
def test_enclosures_of_lc_are_narrow_and_hold_the_float_oracle(seed: int) -> None:
    drawn = instances.lc(seed=seed, batch=(2,), p=3, q=4, condition=30.0)
    assert isinstance(drawn.family, LC)
    wide = balls.lc_gradient(drawn.family, drawn.theta, 100)
    narrow = balls.lc_gradient(drawn.family, drawn.theta)
    assert wide.overlaps(narrow)
    assert balls.radius(narrow) < 1e-50 < balls.radius(wide) < 1e-20
    allowed = tolerance(drawn.family, drawn.theta)
    assert balls.distance(gradient(drawn.family, drawn.theta), narrow) < allowed


def test_curvature_is_certified_or_refused() -> None:
    A = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert 0.99 < float(balls.certified_curvature(A)) < 1
    with pytest.raises(ArithmeticError, match="could not be certified"):
        balls.certified_curvature(np.array([[1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(ArithmeticError, match="could not be certified"):
        balls.certified_curvature(np.array([[1.0, 2.0], [2.0, 1.0]]))


def test_data_are_rounded_to_the_subjects_precision() -> None:
    drawn = rounded(quad(0), np.float32)
    assert isinstance(drawn.family, Quad)
    for array in (drawn.theta, drawn.family.A, drawn.family.upper.P):
        assert (array.astype(np.float32) == array).all()
    with pytest.raises(TypeError, match="needs a dataclass"):
        rounded(3.0, np.float32)


def test_exact_arithmetic_compares_both_precisions_and_both_families() -> None:
    evidence = exact_arithmetic(memory_reduced, 0)
    assert evidence.holds, str(evidence)
    assert evidence.comparisons == 7


def in_float32(
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: torch.Tensor,
    phi0: torch.Tensor,
    v0: torch.Tensor | None,
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> torch.Tensor:
    """M20: float64 in name, the answer has been through float32."""
    answer = memory_reduced(
        problem, theta, phi0, v0, steps=steps, max_steps=max_steps, step_size=step_size
    )
    return answer.to(torch.float32).to(answer.dtype)


def test_exact_arithmetic_notices_an_answer_in_single_precision() -> None:
    evidence = exact_arithmetic(in_float32, 0)
    assert not evidence.holds, str(evidence)
    assert "float64" in evidence.where or "finite K and N" in evidence.where
