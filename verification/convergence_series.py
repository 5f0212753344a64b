"""Curves of convergence for the report: the gradient against T, and the floor against |B|.

Each is a dictionary as `verification.series` makes them: x, what was measured with the subject,
a bound on it, how far rounding may move it, and the problem in words; and here also the exact
value, where there is one.
"""

import numpy as np

from verification.claims.floor import POPULATION, gaussian, probed_maps, reached_at_once
from verification.claims.tight_rates import CLOSED_FORM, trajectory
from verification.families.tight import LogUniform, embedded
from verification.oracles.moments import SampledDescent, omega, shared_floor, squared_gradient
from verification.subjects import Subject

UPPER_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def gradient_against_steps(subject: Subject) -> dict[str, dict[str, object]]:
    """|grad F(theta_T)|^2 on one fixed quadratic whose decay is 1/T over six decades."""
    fixed = LogUniform(size=12, L=1.0, ratio=1e6, gap=1.0)
    problem = embedded(fixed.psi, fixed.size, np.random.default_rng(0))
    thetas = trajectory(subject, problem, fixed.start, eta=1 / fixed.L, upper_steps=UPPER_STEPS[-1])
    exact = [fixed.squared_gradient(T) for T in UPPER_STEPS]
    return {
        "gradient norm against T": {
            "x": list(UPPER_STEPS),
            "measured": [
                float(np.square(fixed.psi.gradient(thetas[T])).sum()) for T in UPPER_STEPS
            ],
            "exact": exact,
            # the least of all gradients up to T, here the last
            "bound": [4 * fixed.L * fixed.gap / (3 * T + 2) for T in UPPER_STEPS],
            "rounding": CLOSED_FORM * exact[-1],
            "problem": "quadratic, 12 log-uniform eigenvalues, 1e-6 to 1, eta = 1/L; |grad F|^2",
        }
    }


def floor_against_batch(subject: Subject) -> dict[str, dict[str, object]]:
    """The stationary E|grad F|^2 of the subject's maps, with and without replacement."""
    shared = reached_at_once(gaussian(0, 3))
    z = np.random.default_rng(0).standard_normal((POPULATION, shared.size))
    exact, seen = shared.maps(z), probed_maps(subject, shared, z)
    H, _ = exact.mean
    L = float(np.linalg.norm(H, 2))
    eta, covariance = 0.5 / L, np.cov(exact.d.T, bias=True)
    variance = float(np.trace(covariance))
    found: dict[str, dict[str, object]] = {}
    for replacement in (True, False):
        sizes = list(range(1, POPULATION + replacement))  # the whole population leaves no floor
        shares = [omega(POPULATION, b, replacement=replacement) / b for b in sizes]
        reached = [SampledDescent(seen, eta, share).stationary() for share in shares]
        how = "with" if replacement else "without"
        found[f"floor against |B|, {how} replacement"] = {
            "x": sizes,
            "measured": [squared_gradient(at, *exact.mean) for at in reached],
            "exact": [shared_floor(H, covariance, eta, share) for share in shares],
            # Theorem 1's last term, T to infinity, no bias: L_F eta (omega/b) sigma^2
            "bound": [L * eta * share * variance for share in shares],
            "rounding": CLOSED_FORM * shared_floor(H, covariance, eta, shares[-1]),
            "problem": f"Quad, M = {POPULATION} tasks with one H, p = 3, eta = 1/(2L); E|grad F|^2",
        }
    return found


def convergence(subject: Subject) -> dict[str, dict[str, object]]:
    """All of them."""
    return gradient_against_steps(subject) | floor_against_batch(subject)
