"""Curves of convergence for the report: the gradient against T, and the floor against |B|."""

import numpy as np

from verification.claims.floor import POPULATION, gaussian, probed_maps, reached_at_once
from verification.claims.tight_rates import CLOSED_FORM, trajectory
from verification.oracles.moments import SampledDescent, omega, shared_floor, squared_gradient
from verification.problems.tight import LogUniform, embedded
from verification.report.curves import Series
from verification.subjects.algorithm1 import Subject, memory_reduced

UPPER_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def gradient_against_steps(subject: Subject = memory_reduced) -> list[Series]:
    """|grad F(theta_T)|^2 on one fixed quadratic whose decay is 1/T over six decades."""
    fixed = LogUniform(size=12, L=1.0, ratio=1e6, gap=1.0)
    problem = embedded(fixed.psi, fixed.size, np.random.default_rng(0))
    thetas = trajectory(subject, problem, fixed.start, eta=1 / fixed.L, upper_steps=UPPER_STEPS[-1])
    exact = [fixed.squared_gradient(T) for T in UPPER_STEPS]
    measured = [float(np.square(fixed.psi.gradient(thetas[T])).sum()) for T in UPPER_STEPS]
    return [
        Series(
            name="gradient norm against T",
            x_label="T, upper steps",
            y_label="|grad F(theta_T)|^2",
            x=[float(T) for T in UPPER_STEPS],
            measured={"Algorithm 1": measured},
            # on the least of all gradients up to T, here the last
            bounds={"Algorithm 1": [4 * fixed.L * fixed.gap / (3 * T + 2) for T in UPPER_STEPS]},
            values={"Algorithm 1": exact},
            problem="quadratic, 12 log-uniform eigenvalues from 1e-6 to 1, eta = 1/L",
            slack=CLOSED_FORM * exact[-1],
        )
    ]


def floor_against_batch(subject: Subject = memory_reduced) -> list[Series]:
    """The stationary E|grad F|^2 of the subject's maps, with and without replacement."""
    shared = reached_at_once(gaussian(0, 3))
    z = np.random.default_rng(0).standard_normal((POPULATION, shared.size))
    exact, seen = shared.maps(z), probed_maps(subject, shared, z)
    H, _ = exact.mean
    L = float(np.linalg.norm(H, 2))
    eta, covariance = 0.5 / L, np.cov(exact.d.T, bias=True)
    sizes = range(1, POPULATION)  # the whole population, without replacement, leaves no floor
    measured, bounds, values = {}, {}, {}
    for replacement in (True, False):
        name = "with replacement" if replacement else "without"
        shares = [omega(POPULATION, b, replacement=replacement) / b for b in sizes]
        reached = [SampledDescent(seen, eta, share).stationary() for share in shares]
        measured[name] = [squared_gradient(at, *exact.mean) for at in reached]
        values[name] = [shared_floor(H, covariance, eta, share) for share in shares]
        # Theorem 1's last term, T to infinity, no bias: L_F eta (omega/b) sigma^2
        bounds[name] = [L * eta * share * float(np.trace(covariance)) for share in shares]
    return [
        Series(
            name="floor against |B|",
            x_label="|B|, tasks in a batch",
            y_label="limit of E|grad F|^2",
            x=[float(b) for b in sizes],
            measured=measured,
            bounds=bounds,
            values=values,
            problem=f"Quad, M = {POPULATION} tasks with one H, p = 3, eta = 1/(2L)",
            slack=CLOSED_FORM * min(map(min, values.values())),
        )
    ]


SERIES = (gradient_against_steps, floor_against_batch)
