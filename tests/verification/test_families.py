"""Each exact piece against a derivation that shares nothing with it: autograd or a complex step."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given

from verification.oracles import gradient, task_gradients
from verification.oracles.rounding import error_scale, unit_roundoff
from verification.problems import LC, Family, Head, Quad
from verification.problems.base import matvec, norm, solve, spectral_norm, transposed
from verification.problems.drawn import Instance, real_head
from verification.problems.lc import logcosh
from verification.problems.strategies import anything, lcs, quads

u = unit_roundoff()
# The truncation error of a complex step h is h^2: nothing, at 1e-40.
STEP = 1e-40


def rounding(family: Family) -> float:
    """n^{3/2} u for products, twice: both sides round (see `finite_steps_tolerance`)."""
    scale: float = (family.terms + 4) ** 1.5
    return 2 * scale * u


def complex_columns(
    function: Callable[[np.ndarray], np.ndarray], point: np.ndarray, size: int
) -> np.ndarray:
    """Derivatives of function in the last dimension of point, as trailing columns."""
    columns = []
    for j in range(size):
        moved = point.astype(complex)
        moved[..., j] += 1j * STEP
        columns.append(function(moved).imag / STEP)
    return np.stack(columns, axis=-1)


@given(anything())
def test_hessian_and_cross_block_are_complex_steps_of_the_gradient(drawn: Instance) -> None:
    family, theta, phi = drawn.family, drawn.theta, drawn.phi0
    hessian = complex_columns(lambda x: family.lower_gradient(theta, x), phi, family.lower_size)
    cross = complex_columns(lambda x: family.lower_gradient(x, phi), theta, family.upper_size)
    gamma = rounding(family)
    H, J = family.hessian(theta, phi), transposed(family.cross(theta, phi))
    # 1 - tanh^2 rounds relative to 1, whose weight L and L12 contain
    reach = float(norm(phi - family.minimiser(theta)).max())
    k = family.constants(theta, radius=reach)
    # ... but for its argument, of size |X||phi| or |phi| + |W||theta|, whose rounding passes at
    # slope rH: magnitudes hold it
    bent = k.rH * family.magnitudes(theta, phi).lower / k.smoothness
    assert (spectral_norm(hessian - H) <= gamma * (k.smoothness + bent)).all()
    bent = k.rJ * family.magnitudes(theta, phi).lower / k.smoothness
    assert (spectral_norm(cross - J) <= gamma * (k.L12 + bent)).all()


@given(anything())
def test_gradients_are_those_of_the_torch_objectives(drawn: Instance) -> None:
    family = drawn.family
    problem = family.bilevel()
    theta, phi, _ = drawn.tensors()
    phi.requires_grad_()
    (lower,) = torch.autograd.grad(problem.lower(theta, phi).sum(), phi)
    # a theta of each task's own, so that the gradients in theta are not summed over the tasks
    in_theta, in_phi = family.upper_gradients(drawn.theta, drawn.phi0)
    upper_phi = torch.autograd.grad(problem.upper(theta, phi).sum(), phi)[0]
    at = family.magnitudes(drawn.theta, drawn.phi0)
    gamma = rounding(family)
    gradient = family.lower_gradient(drawn.theta, drawn.phi0)
    assert (norm(lower.numpy() - gradient) <= gamma * at.lower).all()
    assert (norm(upper_phi.numpy() - in_phi) <= gamma * at.upper_phi).all()
    theta.requires_grad_()
    values = problem.upper(theta, phi.detach())
    assert values.shape == family.batch
    for task in np.ndindex(*family.batch):
        (own,) = torch.autograd.grad(values[task], theta, retain_graph=True)
        error = np.linalg.norm(own.numpy() - in_theta[task])
        assert error <= gamma * at.upper_theta[task]


@given(anything())
def test_minimiser_is_stationary_and_constants_bound_the_hessian(drawn: Instance) -> None:
    family, theta = drawn.family, drawn.theta
    phi = family.minimiser(theta)
    at, k = family.magnitudes(theta, phi), family.constants(theta)
    # LAPACK's solve leaves a residual of n^{3/2} u |A| |x|; Newton promises 10 times its rounding
    assert (norm(family.lower_gradient(theta, phi)) <= 10 * rounding(family) * at.lower).all()
    slack = 1 + rounding(family) * k.condition
    for point in (phi, drawn.phi0):
        spectrum = np.linalg.eigvalsh(family.hessian(theta, point))
        assert (spectrum[..., 0] * slack >= k.strong_convexity).all()
        assert (spectrum[..., -1] <= k.smoothness * slack).all()


@given(anything(condition=1e3))
def test_lipschitz_constants_hold_between_two_points(drawn: Instance) -> None:
    family, theta = drawn.family, drawn.theta
    one, two = family.minimiser(theta), drawn.phi0
    distance = norm(one - two)
    k = family.constants(theta, radius=float(distance.max()))
    (theta_one, phi_one), (theta_two, phi_two) = (
        family.upper_gradients(theta, point) for point in (one, two)
    )
    H, J = ([piece(theta, x) for x in (one, two)] for piece in (family.hessian, family.cross))
    gamma = rounding(family)
    at = family.magnitudes(theta, two)
    here = family.magnitudes(theta, one)
    theta_scale = gamma * (at.upper_theta + here.upper_theta)
    phi_scale = gamma * (at.upper_phi + here.upper_phi)
    assert (norm(theta_one - theta_two) <= k.lam12 * distance + theta_scale).all()
    assert (norm(phi_one - phi_two) <= k.lam22 * distance + phi_scale).all()
    assert (spectral_norm(H[0] - H[1]) <= k.rH * distance + gamma * k.smoothness).all()
    assert (spectral_norm(J[0] - J[1]) <= k.rJ * distance + gamma * k.L12).all()
    for block in J:
        assert (spectral_norm(block) <= k.L12 * (1 + gamma)).all()
    for grad in (phi_one, phi_two):
        assert (norm(grad) <= k.C_f * (1 + gamma)).all()


@given(anything())
def test_hypergradient_is_the_derivative_along_the_minimiser(drawn: Instance) -> None:
    # Forward mode: dphi*/dtheta by a complex step through Newton's iteration, in complex
    # arithmetic, then the chain rule. Neither the adjoint nor the cross block takes part.
    family, theta = drawn.family, drawn.theta
    phi = family.minimiser(theta)

    def follow(moved: np.ndarray) -> np.ndarray:
        point = phi.astype(complex)
        for _ in range(3):
            # the real part is at round-off already; moving it would only add noise
            step = solve(family.hessian(moved, point), family.lower_gradient(moved, point))
            point = point - 1j * step.imag
        return point

    sensitivity = complex_columns(follow, theta, family.upper_size)
    in_theta, in_phi = family.upper_gradients(theta, phi)
    forward = in_theta + matvec(transposed(sensitivity), in_phi)
    # Both solve with H to a backward error gamma L: gamma kappa Xi covers each.
    allowed = 2 * rounding(family) * error_scale(family, theta)
    assert (norm(forward - task_gradients(family, theta)) <= allowed).all()


@given(quads())
def test_quad_hypergradient_is_affine_in_theta(drawn: Instance) -> None:
    family = drawn.family
    assert isinstance(family, Quad)
    H, d = family.normal_equations()
    closed = (H @ drawn.theta - d).reshape(-1, family.upper_size).mean(0)
    # C and d carry relative errors gamma kappa of their own, so the products with theta, formed
    # after the solves, cancel at |C||theta| + |d| where the direct way has |phi*|.
    spectrum = np.linalg.eigvalsh(family.A)
    mu = spectrum[..., 0]
    parts = spectral_norm(family.B) * np.linalg.norm(drawn.theta) + norm(family.c)
    kappa = spectrum[..., -1] / mu
    s = spectral_norm(np.linalg.solve(family.A, family.B))
    slope = family.upper.lam12 + s * family.upper.lam22
    extra = slope * parts / mu + s * norm(family.upper.t) * np.sqrt(family.upper.lam22)
    allowed = rounding(family) * (error_scale(family, drawn.theta) + kappa * extra).mean()
    assert np.linalg.norm(closed - gradient(family, drawn.theta)) <= allowed


@given(lcs(condition=100.0))
def test_lc_is_nonlinear_where_it_is_meant_to_be(drawn: Instance) -> None:
    family = drawn.family
    assert isinstance(family, LC)
    if (family.a == 0).all():  # condition 1 leaves no room for log-cosh
        return
    phi = drawn.phi0
    moved = phi + 0.5
    change = spectral_norm(family.hessian(drawn.theta, phi) - family.hessian(drawn.theta, moved))
    assert (change > 1e-6 * family.a).all()


@pytest.mark.parametrize("x", [-800.0, -20.0, -1e-9, 0.0, 0.3, 30.0, 800.0])
def test_logcosh_has_the_derivatives_of_log_cosh(x: float) -> None:
    # also where |x| + softplus(-2|x|) - log 2 loses the second derivative: at 0
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = logcosh(point)
    (first,) = torch.autograd.grad(value, point, create_graph=True)
    (second,) = torch.autograd.grad(first, point)
    assert abs(value.item() - (np.logaddexp(x, -x) - np.log(2))) <= 8 * u * max(1.0, abs(x))
    assert abs(first.item() - np.tanh(x)) <= 8 * u
    assert abs(second.item() - (1 - np.tanh(x) ** 2)) <= 8 * u


def test_heads_on_real_images_are_those_of_the_seed() -> None:
    one, two, other = (
        real_head(seed=seed, batch=(2,), way=3, shot=2, features=4, condition=50.0)
        for seed in (5, 5, 6)
    )
    assert np.array_equal(one.theta, two.theta)
    assert not np.array_equal(one.theta, other.theta)
    family = one.family
    assert isinstance(family, Head)
    k = family.constants(one.theta)
    assert k.condition == pytest.approx([50.0, 50.0])
    # Each task names the classes for itself; each label names one class.
    assert (family.y.sum(-1) == 1).all()
    assert (family.y.sum(-2) == 2).all()
    assert family.w.shape == (2, 6, 3)
