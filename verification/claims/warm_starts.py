"""Theorem 2: with warm starts of phi and v and constant K0, N0 the upper level converges exactly.

The lemma behind it is checked at every step, the theorem for every number of steps, and where F
is strongly convex its corollary for the last gradient (theory.md, section 3). Everything on the
right-hand sides comes from NumPy; the subject only runs.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from verification.claims.evidence import Evidence, worst
from verification.claims.observed import Observed, observe, require_finite
from verification.oracles import adjoint, gradient
from verification.oracles.bounds import rounding
from verification.oracles.outer import OuterConstants, outer_constants, value, value_scale
from verification.oracles.rounding import RECOMMENDED, unit_roundoff
from verification.problems import LC, Quad
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import Subject

UPPER_STEPS = {Quad: 24, LC: 8}  # those of LC cost Newton's method each
CONDITION = 6.0
TASKS = 3


def strongly_convex(instance: Instance) -> tuple[Instance, float]:
    """The Quad with |theta|^2 added to F until L_F/m = 2, and m; theory.md's corollary needs m."""
    family = instance.family
    assert isinstance(family, Quad)
    spectrum = np.linalg.eigvalsh(family.normal_equations()[0].mean(0))
    shift = max(0.0, float(spectrum[-1] - 2 * spectrum[0]))
    upper = replace(family.upper, r=family.upper.r + shift)
    return replace(instance, family=replace(family, upper=upper)), float(spectrum[0] + shift)


def warm_descent(subject: Subject, seed: int) -> Evidence:
    """Warm starts with Theorem 2's K0, N0 converge, at its rate and without a floor."""
    quad = instances.quad(seed=seed, batch=(TASKS,), p=3, q=4, condition=CONDITION)
    lc = instances.lc(seed=seed, batch=(TASKS,), p=3, q=4, condition=CONDITION)
    return worst([*_comparisons(subject, *strongly_convex(quad)), *_comparisons(subject, lc, None)])


def _errors(instance: Instance, c: OuterConstants, theta: np.ndarray, at: Observed) -> np.ndarray:
    """A |phi - phi*| + L12 |v - v*| of each task: z."""
    family = instance.family
    away = norm(at.v - adjoint(family, theta))
    return np.asarray(c.A * norm(at.phi - family.minimiser(theta)) + c.L12 * away)


def _comparisons(subject: Subject, instance: Instance, m: float | None) -> Iterator[Evidence]:
    family, theta, problem = instance.family, instance.theta, instance.family.bilevel()
    assert isinstance(family, Quad | LC)
    name = type(family).__name__
    c = outer_constants(family, theta)
    eta, step_size = 1 / c.smoothness, 1 / c.L
    K, N = c.warm_counts(eta, step_size)
    shrink, drift = c.warm_rates(K, N, step_size)
    start = Observed(h=np.zeros_like(theta), phi=instance.phi0, v=instance.v0)
    stored = _errors(instance, c, theta, start)
    z0 = shrink * float(np.sqrt(np.mean(stored**2)))  # of one solve from there (the lemma)
    moved, squares, first = 0.0, 0.0, value(family, theta)
    u = RECOMMENDED * unit_roundoff()
    for step in range(UPPER_STEPS[type(family)]):
        now = observe(
            subject,
            problem,
            theta,
            start.phi,
            start.v,
            steps=K,
            max_steps=N,
            step_size=step_size,
        )
        z = _errors(instance, c, theta, now)
        k = family.constants(theta)
        slack = rounding(family, theta, now.phi, now.v) * np.maximum(1, c.A / k.c1)
        exact = gradient(family, theta)
        yield Evidence(
            claim="warm starts",
            error=float(np.linalg.norm(now.h - exact)),
            tolerance=float((z + slack).mean()),
            scale=float(np.linalg.norm(exact)),
            where=f"{name}: the hypergradient errs by z at most, step {step}",
        )
        share = (z - slack) / (shrink * stored + drift * moved + slack)
        yield Evidence(
            claim="warm starts",
            error=float(max(share.max(), 0.0)),
            tolerance=1.0,
            scale=float(z.max()),
            where=f"{name}: the lemma's recursion for z, step {step}",
        )
        squares += float(exact @ exact)
        theta = require_finite(theta - eta * now.h)
        gain = first - value(family, theta)
        allowed = 8 / 3 * (max(gain, 0.0) / eta + z0**2)
        allowed += u / eta * (value_scale(family, theta) + value_scale(family, instance.theta))
        yield Evidence(
            claim="warm starts",
            error=squares + 8 / 3 * max(-gain, 0.0) / eta,
            tolerance=allowed,
            scale=squares,
            where=f"{name}: Theorem 2 for T = {step + 1}, K = {K}, N = {N}",
        )
        start, stored, moved = now, z, eta * float(np.linalg.norm(now.h))
    if m is not None:
        yield _corollary(instance, c, m, z0, theta)


def _corollary(
    instance: Instance, c: OuterConstants, m: float, z0: float, theta: np.ndarray
) -> Evidence:
    """Linear convergence where F is strongly convex: |grad F(theta_T)|^2 <= 2 L_F eta Phi_T."""
    family, eta = instance.family, 1 / c.smoothness
    assert isinstance(family, Quad)
    H, d = (part.mean(0) for part in family.normal_equations())
    away = instance.theta - np.linalg.solve(H, d)
    potential = 0.5 * float(away @ H @ away) / eta + 2 * z0**2
    rate = max(1 - eta * m / 2, 0.75)
    exact = gradient(family, theta)
    return Evidence(
        claim="warm starts",
        error=float(np.linalg.norm(exact)),
        tolerance=math.sqrt(2 * c.smoothness * eta * rate ** UPPER_STEPS[Quad] * potential),
        scale=float(np.linalg.norm(gradient(family, instance.theta))),
        where=f"Quad: the last of {UPPER_STEPS[Quad]} gradients, linear rate {rate:.3f}",
    )
