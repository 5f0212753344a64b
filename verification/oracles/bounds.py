"""Theorems A and B in NumPy: how far a hypergradient may be from exact, and what rounding adds.

theory.md, section 2; constants are this project's own, not the paper's.
"""

import numpy as np
from jaxtyping import Float64

from verification.oracles.rounding import RECOMMENDED, error_scale, unit_roundoff
from verification.problems import Family
from verification.problems.base import FamilyConstants, matvec, norm, solve


def chebyshev(
    condition: Float64[np.ndarray, "*batch"], steps: int
) -> Float64[np.ndarray, "*batch"]:
    """ch_N = 2 tau^N/(1 + tau^(2N)), the factor on the energy norm of the error of N CG steps."""
    root = np.sqrt(condition)
    power = ((root - 1) / (root + 1)) ** steps
    return np.asarray(2 * power / (1 + power**2))


def contraction(k: FamilyConstants, step_size: float) -> Float64[np.ndarray, "*batch"]:
    """q_a = max(|1 - alpha mu|, |1 - alpha L|), of one descent step."""
    low, high = np.abs(1 - step_size * k.strong_convexity), np.abs(1 - step_size * k.smoothness)
    return np.asarray(np.maximum(low, high))


def a_priori(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi0: Float64[np.ndarray, "*batch q"],
    v0: Float64[np.ndarray, "*batch q"] | None,
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> Float64[np.ndarray, "*batch"]:
    """Theorem A for each task; v0 = None is a start of the adjoint from zero.

    From zero, c1 q^K D0 + s ch_N (b* + lam22 q^K D0); from any v0, with |v0 - v*| = u0,
    c1 q^K D0 + L12 min(1, sqrt(kappa) ch_N) (u0 + (lam22 + rH V) q^K D0/mu).
    """
    phi = family.minimiser(theta)
    distance = norm(phi0 - phi)
    k = family.constants(theta, radius=float(distance.max()))
    left = contraction(k, step_size) ** steps * distance
    factor = chebyshev(k.condition, max_steps)
    in_phi = family.upper_gradients(theta, phi)[1]
    mu = k.strong_convexity
    if v0 is None:
        solved = k.L12 / mu * factor * (norm(in_phi) + k.lam22 * left)
    else:
        away = norm(v0 - solve(family.hessian(theta, phi), in_phi))
        share = np.minimum(1, np.sqrt(k.condition) * factor)
        solved = k.L12 * share * (away + (k.lam22 + k.rH * k.V) * left / mu)
    return np.asarray(k.c1 * left + solved)


def a_posteriori(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi: Float64[np.ndarray, "*batch q"],
    v: Float64[np.ndarray, "*batch q"],
) -> Float64[np.ndarray, "*batch"]:
    """Theorem B for each task, at any phi and any v.

    (lam12 + rJ |v|) e + (L12/mu) ((lam22 + rH |v|) e + |r|), with e = |grad_phi g(phi)|/mu and
    r = grad_phi f(phi) - H(phi) v.
    """
    k = family.constants(theta)
    mu, size = k.strong_convexity, norm(v)
    residual = family.upper_gradients(theta, phi)[1] - matvec(family.hessian(theta, phi), v)
    distance = norm(family.lower_gradient(theta, phi)) / mu
    system = (k.lam22 + k.rH * size) * distance + norm(residual)
    return np.asarray((k.lam12 + k.rJ * size) * distance + k.L12 / mu * system)


def rounding(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi: Float64[np.ndarray, "*batch q"],
    v: Float64[np.ndarray, "*batch q"],
) -> Float64[np.ndarray, "*batch"]:
    """Rounding of an error and its bound, at most: 1e2 u kappa Xi, at phi and at phi*.

    The theorems hold in exact arithmetic. Here each gradient has a rounding error of u times its
    terms (`verification.oracles.rounding`): that of the lower level counts c1/mu times, that of the
    adjoint system s times. `error_scale` is their sum at phi*, where the exact hypergradient was
    computed; phi and v may be larger.
    """
    k, at = family.constants(theta), family.magnitudes(theta, phi)
    mu, L, size = k.strong_convexity, k.smoothness, norm(v)
    s = k.L12 / mu
    c1 = k.lam12 + k.rJ * size + s * (k.lam22 + k.rH * size)
    there = c1 * at.lower / mu + s * (L * size + at.upper_phi) + at.upper_theta
    return np.asarray(RECOMMENDED * unit_roundoff() * (there + error_scale(family, theta)))
