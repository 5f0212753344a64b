"""The Hessian of F, and how far rounding may move it.

Oracle: the complex step. grad F_i = grad_theta f - J v* is analytic in (theta, phi), so that its
derivative along e_j is the imaginary part at (theta + ih e_j, phi* + ih S e_j) over h, with
S = dphi*/dtheta = -H^{-1} J', exact but for O(h^2): h = 1e-30 leaves rounding alone. It equals
Z' M Z of theory.md, section 1, and uses none of the second and third derivatives in M.
"""

import numpy as np
from jaxtyping import Float64

from verification.oracles.exact import mean_over_tasks
from verification.oracles.rounding import RECOMMENDED, unit_roundoff
from verification.problems import LC, Exp, Family, Log, Quad
from verification.problems.base import matvec, norm, solve, spectral_norm, transposed

STEP = 1e-30


def hessian(family: Family, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "p p"]:
    """grad^2 F, F the mean over tasks."""
    phi = family.minimiser(theta)
    S = -np.linalg.solve(family.hessian(theta, phi), transposed(family.cross(theta, phi)))
    columns = []
    for j, unit in enumerate(np.eye(len(theta))):
        at, there = theta + 1j * STEP * unit, phi + 1j * STEP * S[..., j]
        in_theta, in_phi = family.upper_gradients(at, there)
        v = solve(family.hessian(at, there), in_phi)
        moved = in_theta - matvec(family.cross(at, there), v)
        columns.append(mean_over_tasks(np.imag(moved) / STEP))
    return np.stack(columns, axis=-1)


def hessian_tolerance(family: Family, theta: Float64[np.ndarray, " p"]) -> float:
    """1e2 u times the first-order propagation of rounding, averaged over the tasks.

    By theory.md, section 1, grad^2 F = Z' M Z with Z = [I; S] and M = grad^2 [f - v' grad_phi g].
    Exact solves with backward errors of a few u leave, to first order and with the constants of
    section 0 (V = |v|, s = |S|, kappa = L/mu),

        d phi = u |terms of grad_phi g| / mu
        d v   = u (kappa V + |terms of grad_phi f| / mu) + (lam22 + rH V) d phi / mu
        d S   = u kappa s + (rJ + s rH) d phi / mu
        d(Z' M Z) = u T + 2 (lam12 + s lam22 + V (rJ + s rH)) dS + B dv + V D d phi

    with B = rJ_t + 2 s rJ + s^2 rH bounding Z' d(v' grad_phi g)'' Z for a unit v, D the fourth
    derivatives of g in the same way, and T = lam11 + 2 s lam12 + s^2 lam22 + V B the terms that are
    added up. M moves with phi by f's third derivatives, too, which only LC has.
    """
    u = unit_roundoff()
    phi = family.minimiser(theta)
    H, J = family.hessian(theta, phi), family.cross(theta, phi)
    spectrum = np.linalg.eigvalsh(H)
    mu, kappa = spectrum[..., 0], spectrum[..., -1] / spectrum[..., 0]
    s = spectral_norm(np.linalg.solve(H, transposed(J)))
    k, at = family.constants(theta), family.magnitudes(theta, phi)
    rJ_t, lam11, D, third = _higher(family, theta, phi, s)
    B = rJ_t + 2 * s * k.rJ + s**2 * k.rH
    T = lam11 + 2 * s * k.lam12 + s**2 * k.lam22 + k.V * B
    d_phi = u * at.lower / mu
    d_v = u * (kappa * k.V + at.upper_phi / mu) + (k.lam22 + k.rH * k.V) * d_phi / mu
    d_S = u * kappa * s + (k.rJ + s * k.rH) * d_phi / mu
    mixed = k.lam12 + s * k.lam22 + k.V * (k.rJ + s * k.rH)
    moved = u * T + 2 * mixed * d_S + B * d_v + (k.V * D + third) * d_phi
    return RECOMMENDED * float(np.mean(moved))


def _higher(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi: Float64[np.ndarray, "*batch q"],
    s: Float64[np.ndarray, "*batch"],
) -> tuple[Float64[np.ndarray, "*batch"], ...]:
    """rJ_t, lam11, D and the bound on f's third derivatives within Z, for each task.

    max |tanh''| = 4/(3 sqrt 3) and max |tanh'''| = 2; the logistic loss is log(1 + e^{-z}), whose
    fourth derivative is at most 1/8. e^theta phi^2 / 2 has the derivatives e^theta phi (theta theta
    phi) and e^theta (theta theta phi phi).
    """
    zero = np.zeros(family.batch)
    if isinstance(family, LC):
        W, P, R = (spectral_norm(matrix) for matrix in (family.W, family.P, family.R))
        bend = 4 / (3 * np.sqrt(3))
        along = W + s  # how fast phi - W theta moves with theta
        return (
            np.asarray(family.a * bend * W**2),
            np.asarray(family.w * R**2 + family.r),
            np.asarray(2 * family.a * along**2),
            np.asarray(family.w * bend * P * (R + s * P) ** 2),
        )
    if isinstance(family, Exp | Log):
        E = np.exp(theta).max()
        fourth = zero
        if isinstance(family, Log):
            X, longest = spectral_norm(family.X), norm(family.X).max(-1)
            fourth = X**2 * longest**2 / (8 * family.examples)
        return (
            np.asarray((np.exp(theta) * np.abs(phi)).max(-1)),
            family.upper.r,
            np.asarray(E + 2 * s * E + s**2 * fourth),
            zero,
        )
    if isinstance(family, Quad):
        return zero, family.upper.r, zero, zero
    raise TypeError(f"no bounds are known for the third derivatives of {type(family).__name__}.")
