"""O(1/T) where it is tight: neither beaten nor missed (theory.md, section 4).

Each family says to the digit what |grad F(theta_t)| must be. A slope fitted to a plot would say
little: the average of squared gradients falls like 1/T on every convergent problem.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float64

from hypergrad import Bilevel
from verification.claims.evidence import Evidence, worst
from verification.claims.observed import Counts, DivergedError, require_finite
from verification.claims.warm_starts import strongly_convex
from verification.oracles import gradient
from verification.oracles.outer import outer_constants, value, value_scale
from verification.oracles.rounding import RECOMMENDED, unit_roundoff
from verification.problems import Quad
from verification.problems import drawn as instances
from verification.problems.tight import (
    CURVATURES,
    Embedded,
    FatTail,
    Huber,
    LogUniform,
    Psi,
    Sawtooth,
    chain_squared_gradient,
    dyadic,
    embedded,
    horizon_quadratic,
    nesterov_chain,
)
from verification.subjects.algorithm1 import Subject

# theory.md, section 4, asks for 1e-6 of the closed form; K and N leave 9^-18 = 7e-18 of the start
CLOSED_FORM = 1e-6
STEPS, CG_STEPS = 18, 2
STEP_SIZE = 2 / sum(CURVATURES)


def trajectory(
    subject: Subject,
    problem: Embedded,
    start: Float64[np.ndarray, " p"],
    *,
    eta: float,
    upper_steps: int,
) -> Float64[np.ndarray, "T p"]:
    """theta_0, ..., theta_T, cold starts of phi from 0.3 everywhere."""
    phi0 = torch.full((len(problem.A),), 0.3, dtype=torch.float64)
    return _descend(
        subject,
        problem,
        start,
        phi0,
        eta=eta,
        upper_steps=upper_steps,
        counts={"steps": STEPS, "max_steps": CG_STEPS, "step_size": STEP_SIZE},
    )


def _descend(
    subject: Subject,
    problem: Embedded,
    start: np.ndarray,
    phi0: torch.Tensor,
    *,
    eta: float,
    upper_steps: int,
    counts: Counts,
) -> np.ndarray:
    bilevel = Bilevel(upper=problem.upper, lower=problem.lower)
    thetas = [start]
    for _ in range(upper_steps):
        h = subject(bilevel, torch.tensor(thetas[-1]), phi0, None, **counts)
        thetas.append(require_finite(thetas[-1] - eta * h.numpy()))
    return np.stack(thetas)


def sawtooth(subject: Subject, seed: int) -> Evidence:
    """The best gradient equals 4 L Delta/(3T + 2), to the bit, where that bound is attained."""
    rng = np.random.default_rng([seed, 7])
    T = int(rng.integers(4, 24))
    # K = 1 step of size 1/2 ends at V theta exactly, from wherever; all numbers are dyadic
    phi0 = torch.tensor(rng.integers(-8, 8, 2) / 8 + 1 / 16)
    thetas = _descend(
        subject,
        dyadic(Sawtooth()),
        np.array([float(T)]),
        phi0,
        eta=1.0,
        upper_steps=T,
        counts={"steps": 1, "max_steps": 1, "step_size": 0.5},
    )
    best = min(float(g @ g) for g in map(Sawtooth().gradient, thetas))
    exact = 4 * Sawtooth.gap(T) / (3 * T + 2)
    away = float(np.abs(thetas[:, 0] - np.arange(T, -1, -1)).max())
    return worst(
        Evidence(
            claim="sawtooth",
            error=error,
            tolerance=unit_roundoff(),  # anything but equality exceeds it
            scale=scale,
            where=f"{what}, T = {T}",
        )
        for what, error, scale in (
            ("theta_t = T - t", away, float(T)),
            ("least squared gradient", abs(best - exact), exact),
        )
    )


def huber(subject: Subject, seed: int) -> Evidence:
    """The gradient first falls below w at step T + 1 = L Delta/w^2 + 1/2 exactly."""
    rng = np.random.default_rng([seed, 8])
    T = int(rng.integers(4, 12))
    psi = Huber(L=float(10 ** rng.uniform(-1, 1)), w=float(10 ** rng.uniform(-1, 1)))
    start = np.array([(T + 1) * psi.w / psi.L])
    problem = embedded(psi, 1, rng)
    thetas = trajectory(subject, problem, start, eta=1 / psi.L, upper_steps=T + 2)
    # at step T the gradient is w but for rounding, at step T + 1 it is rounding
    below = [abs(float(psi.gradient(theta)[0])) < psi.w / 2 for theta in thetas]
    hit = below.index(True) if any(below) else math.inf
    return Evidence(
        claim="Huber hitting time",
        error=float(abs(hit - (T + 1))),
        tolerance=0.5,
        scale=float(T + 1),
        where=f"first hit at {hit}, T + 1 = {T + 1}",
    )


def closed_forms(subject: Subject, seed: int) -> Evidence:
    """|grad F(theta_T)|^2 equals its closed form: log-uniform, one eigenvalue, Nesterov's chain."""
    return worst(_closed_forms(subject, seed))


def _closed_forms(subject: Subject, seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 9])
    L = float(10 ** rng.uniform(-1, 1))
    T = int(rng.integers(8, 16))
    fixed = LogUniform(size=12, L=L, ratio=1e6, gap=1.0)
    single, share = horizon_quadratic(T, L)
    one = np.array([math.sqrt(2 / single.H[0, 0])])  # Delta = 1
    cases: tuple[tuple[str, Psi, np.ndarray, float], ...] = (
        ("log-uniform spectrum", fixed.psi, fixed.start, fixed.squared_gradient(T)),
        ("one eigenvalue L/(2T + 1)", single, one, 2 * L * share),
        (
            "Nesterov's chain",
            nesterov_chain(T + 1, L),
            np.zeros(T + 1),
            chain_squared_gradient(T, L),
        ),
    )
    for name, psi, start, exact in cases:
        problem = embedded(psi, len(start), rng)
        end = trajectory(subject, problem, start, eta=1 / L, upper_steps=T)[-1]
        got = float(np.square(psi.gradient(end)).sum())
        yield Evidence(
            claim="closed form of the last gradient",
            error=abs(got - exact),
            tolerance=CLOSED_FORM * exact,
            scale=exact,
            where=f"{name}, T = {T}",
        )


def fat_tail(subject: Subject, seed: int) -> Evidence:
    """On the non-convex (1 + u^2)^(-p/2) descent is as fast as it must be, and no faster."""
    rng = np.random.default_rng([seed, 10])
    psi, T = FatTail(p=float(rng.uniform(0.3, 1.0))), 20
    start, eta = np.array([10.0]), 1 / psi.p
    end = trajectory(subject, embedded(psi, 1, rng), start, eta=eta, upper_steps=T)[-1]
    least, largest = psi.growth(10.0, eta)
    grown = (psi.potential(end) - psi.potential(start)) / T
    return Evidence(
        claim="non-convex rate",
        error=abs(grown - (least + largest) / 2),
        tolerance=(largest - least) / 2
        + RECOMMENDED * unit_roundoff() * psi.potential(start) * (psi.p + 2),
        scale=(least + largest) / 2,
        where=f"growth of (1 + u^2)^(p/2 + 1) a step, p = {psi.p:.2f}, T = {T}",
    )


def energy_sandwich(subject: Subject, seed: int) -> Evidence:
    """Sum |grad F|^2 lies between (F_0 - F_T)/(eta (1 + eta L_F/2)) and the same with a minus."""
    rng = np.random.default_rng([seed, 11])
    instance = instances.quad(seed=seed, batch=(2,), p=3, q=4, condition=1.5)
    instance, _ = strongly_convex(instance)
    family, theta = instance.family, instance.theta
    assert isinstance(family, Quad)
    L_F = outer_constants(family, theta).smoothness
    eta, T = float(rng.uniform(0.1, 0.4)) / L_F, 5
    k = family.constants(theta)
    step_size = 2 / float((k.strong_convexity + k.smoothness).max())
    problem, (_, phi0, _) = family.bilevel(), instance.tensors()
    squares, first = 0.0, value(family, theta)
    for _ in range(T):
        squares += float(np.square(gradient(family, theta)).sum())
        # ((kappa - 1)/(kappa + 1))^K = 5^-24 = 2e-17, and CG is exact after q = 4 steps
        h = subject(
            problem,
            torch.tensor(theta),
            phi0,
            None,
            steps=24,
            max_steps=8,
            step_size=step_size,
        )
        theta = require_finite(theta - eta * h.numpy())
    gain = first - value(family, theta)
    if gain <= 0:
        raise DivergedError(f"F has grown by {-gain:.2e} in {T} steps of {eta * L_F:.2f}/L_F.")
    low, high = gain / (eta * (1 + eta * L_F / 2)), gain / (eta * (1 - eta * L_F / 2))
    u = RECOMMENDED * unit_roundoff()
    slack = u * (value_scale(family, instance.theta) + value_scale(family, theta)) / eta
    return Evidence(
        claim="energy sandwich",
        error=abs(squares - (low + high) / 2),
        tolerance=(high - low) / 2 + slack,
        scale=squares,
        where=f"T = {T}, eta L_F = {eta * L_F:.2f}",
    )
