"""The finite oracles against the recurrences they must not contain, and the tolerances' forms."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification.oracles import (
    adjoint,
    error_scale,
    finite_steps,
    finite_steps_tolerance,
    gd,
    gradient,
    krylov_galerkin,
    task_gradients,
    tolerance,
)
from verification.oracles.rounding import unit_roundoff
from verification.oracles.second import hessian, hessian_tolerance
from verification.problems import Quad, take
from verification.problems import drawn as instances
from verification.problems.base import norm, spectral_norm
from verification.problems.drawn import Instance
from verification.problems.newton import damped_newton
from verification.problems.strategies import anything, quads

u = unit_roundoff()
ROOT = Path(__file__).parents[2]


def textbook_cg(A: np.ndarray, b: np.ndarray, v0: np.ndarray, steps: int) -> np.ndarray:
    """Hestenes and Stiefel's recurrence, as in the paper's Algorithm 2."""
    v, r = v0, b - A @ v0
    p = r
    for _ in range(steps):
        if not r.any():
            break
        step = (r @ r) / (p @ A @ p)
        v, before = v + step * p, r
        r = r - step * (A @ p)
        p = r + (r @ r) / (before @ before) * p
    return v


@given(anything(condition=100.0), st.integers(1, 3), st.integers(1, 4))
def test_finite_oracle_is_what_the_recurrences_give(drawn: Instance, K: int, N: int) -> None:
    family, theta = drawn.family, drawn.theta
    step_size = 0.9 / float(family.constants(theta).smoothness.max())
    phi = drawn.phi0
    for _ in range(K):
        phi = phi - step_size * family.lower_gradient(theta, phi)
    in_phi = family.upper_gradients(theta, phi)[1]
    H = family.hessian(theta, phi)
    v = np.empty_like(phi)
    for task in np.ndindex(*family.batch):
        v[task] = textbook_cg(H[task], in_phi[task], drawn.v0[task], N)
    at = (family, theta, drawn.phi0, drawn.v0)
    oracle = finite_steps(*at, steps=K, max_steps=N, step_size=step_size)
    allowed = finite_steps_tolerance(*at, steps=K, max_steps=N, step_size=step_size)
    assert (norm(oracle.phi - phi) <= allowed.phi).all()
    assert (norm(oracle.v - v) <= allowed.v).all()


@given(quads(q=(2, 8), condition=1e4, batch=st.just(())))
def test_krylov_galerkin_is_optimal_and_ends_exactly(drawn: Instance) -> None:
    # The definition of CG: least energy error over v_0 + Krylov space, here by least squares in
    # the energy norm on the power basis, whose condition for two columns is harmless.
    family = drawn.family
    H = family.hessian(drawn.theta, drawn.phi0)
    b = family.upper_gradients(drawn.theta, drawn.phi0)[1]
    exact = np.linalg.solve(H, b)
    L = float(spectral_norm(H))
    r0 = b - H @ drawn.v0
    basis = np.stack([r0, H @ r0 / L], axis=-1)
    root = np.linalg.cholesky(H).T
    coefficients = np.linalg.lstsq(root @ basis, root @ (exact - drawn.v0))[0]
    best = drawn.v0 + basis @ coefficients
    found = krylov_galerkin(H, b, drawn.v0, 2)
    energy = [float(np.linalg.norm(root @ (x - exact))) for x in (found, best, drawn.v0)]
    # the energy error at the optimum is quadratic in the deviation, hence so well determined;
    # its terms are of size sqrt(L)|x| and the triangular solve inside `exact` costs kappa u
    kappa = float(np.linalg.cond(H))
    slack = 100 * u * kappa * L**0.5 * float(np.linalg.norm(exact) + np.linalg.norm(drawn.v0))
    assert abs(energy[0] - energy[1]) <= slack
    assert energy[0] <= energy[2] + slack
    last = krylov_galerkin(H, b, drawn.v0, family.lower_size)
    assert np.linalg.norm(root @ (last - exact)) <= slack


def test_krylov_galerkin_ends_early_where_the_space_does() -> None:
    b = np.array([1.0, 2.0, 0.0])
    zero = np.zeros(3)
    assert np.allclose(krylov_galerkin(2 * np.eye(3), b, zero, 3), b / 2, rtol=4 * u, atol=0)
    assert (krylov_galerkin(2 * np.eye(3), b, b / 2, 2) == b / 2).all()


@given(quads(condition=1e3), st.integers(0, 8))
def test_matrix_power_is_gradient_descent(drawn: Instance, K: int) -> None:
    family, theta = drawn.family, drawn.theta
    step_size = 0.9 / float(family.constants(theta).smoothness.max())
    phi = drawn.phi0
    for _ in range(K):
        phi = phi - step_size * family.lower_gradient(theta, phi)
    allowed = finite_steps_tolerance(
        family, theta, drawn.phi0, drawn.v0, steps=K, max_steps=1, step_size=step_size
    ).phi
    error = norm(gd(family, theta, drawn.phi0, steps=K, step_size=step_size) - phi)
    # for K = 0 the power returns phi* + (phi_0 - phi*)
    allowed = allowed + 4 * u * (norm(family.minimiser(theta)) + norm(drawn.phi0))
    assert (error <= allowed).all()


@given(anything(condition=10.0))
def test_finite_oracle_tends_to_the_exact_one(drawn: Instance) -> None:
    family, theta = drawn.family, drawn.theta
    k = family.constants(theta)
    step_size = 1.8 / float((k.strong_convexity + k.smoothness).max())
    # q_a = 1 - alpha mu, and 1 - 1.8/11 or less at kappa <= 10 for one task; tasks of a batch
    # share alpha, and their mu differ by kappa at most
    steps = int(np.ceil(50 / (step_size * float(k.strong_convexity.min()))))
    limit = finite_steps(
        family,
        theta,
        drawn.phi0,
        np.zeros_like(drawn.v0),
        steps=steps,
        max_steps=family.lower_size,
        step_size=step_size,
    )
    assert np.linalg.norm(limit.mean - gradient(family, theta)) <= tolerance(family, theta)
    v = adjoint(family, theta)
    # L12 |dv| enters the hypergradient: in v itself the same errors, over s mu
    scale = k.V + (k.c1 / k.L12) * family.magnitudes(theta, family.minimiser(theta)).lower / (
        k.smoothness
    )
    room = family.magnitudes(theta, family.minimiser(theta)).upper_phi / k.smoothness
    assert (norm(limit.v - v) <= 1e2 * u * k.condition * (scale + room)).all()


@given(quads())
def test_error_scale_is_at_most_that_of_the_theorem(drawn: Instance) -> None:
    # theory.md, section 6, as printed but for Phi >= |phi*|: s = L12/mu instead of |J H^{-1}|.
    family, theta = drawn.family, drawn.theta
    k, phi = family.constants(theta), family.minimiser(theta)
    at = family.magnitudes(theta, phi)
    s = k.L12 / k.strong_convexity
    xi = (k.lam12 + s * k.lam22) * at.lower / k.smoothness + k.L12 * k.V
    xi = xi + (s * at.upper_phi + at.upper_theta) / k.condition
    slack = 1 + 1e2 * u * k.condition
    assert (error_scale(family, theta) <= k.condition * xi * slack).all()


def test_mean_tolerance_is_the_mean_of_the_tasks() -> None:
    drawn = instances.lc(seed=3, batch=(4,), p=2, q=3, condition=50.0)
    parts = [take(drawn.family, (i,)) for i in range(4)]
    mean = np.mean([tolerance(part, drawn.theta) for part in parts])
    assert tolerance(drawn.family, drawn.theta) == pytest.approx(mean, rel=1e-9)
    grads = np.mean([gradient(part, drawn.theta) for part in parts], axis=0)
    error = np.linalg.norm(grads - gradient(drawn.family, drawn.theta))
    assert error <= tolerance(drawn.family, drawn.theta)
    assert task_gradients(drawn.family, drawn.theta).shape == (4, 2)


def test_single_precision_has_a_tolerance_of_its_own() -> None:
    drawn = instances.quad(seed=0, batch=(), p=2, q=3, condition=10.0)
    double = tolerance(drawn.family, drawn.theta)
    single = tolerance(drawn.family, drawn.theta, np.float32)
    assert single == pytest.approx(double * 2.0**29, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_hessian_of_F_is_that_of_the_normal_equations(seed: int) -> None:
    drawn = instances.of_family("quad", seed=seed, condition=1e4)
    assert isinstance(drawn.family, Quad)
    H = drawn.family.normal_equations()[0]
    expected = H.reshape(-1, *H.shape[-2:]).mean(0)
    found = hessian(drawn.family, drawn.theta)
    assert np.linalg.norm(found - expected) <= hessian_tolerance(drawn.family, drawn.theta)


@pytest.mark.parametrize("family", instances.FAMILIES)
def test_the_hessian_of_F_is_symmetric_and_the_slope_of_the_gradient(family: str) -> None:
    drawn = instances.of_family(family, seed=1, condition=100.0)
    found = hessian(drawn.family, drawn.theta)
    allowed = hessian_tolerance(drawn.family, drawn.theta)
    assert np.linalg.norm(found - found.T) <= allowed
    # a central difference is good to the 2/3rd power of the precision, in the scale of the terms
    h = float(np.finfo(np.float64).eps) ** (1 / 3)
    for j, unit in enumerate(np.eye(len(drawn.theta))):
        sides = [gradient(drawn.family, drawn.theta + sign * h * unit) for sign in (1, -1)]
        difference = (sides[0] - sides[1]) / (2 * h)
        assert np.linalg.norm(difference - found[:, j]) <= 1e-6 * max(
            1.0, float(np.linalg.norm(found))
        )


def test_newton_refuses_a_wrong_hessian() -> None:
    drawn = instances.lc(seed=1, batch=(), p=2, q=3, condition=50.0)
    family, theta = drawn.family, drawn.theta
    with pytest.raises(ArithmeticError, match="is the objective strongly convex"):
        damped_newton(
            gradient=lambda phi: family.lower_gradient(theta, phi),
            hessian=lambda phi: -family.hessian(theta, phi),
            magnitude=lambda phi: family.magnitudes(theta, phi).lower,
            start=drawn.phi0,
            terms=family.terms,
        )


def test_oracles_owe_nothing_to_what_they_judge() -> None:
    modules = [path.stem for path in (ROOT / "verification" / "oracles").glob("*.py")]
    names = ", ".join(f"verification.oracles.{name}" for name in modules if name != "__init__")
    code = f"import sys, {names}; sys.exit('torch' in sys.modules or 'hypergrad' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
