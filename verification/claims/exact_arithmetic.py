"""The subject against answers nobody rounded: exact rationals and rigorous enclosures.

What float64 oracles cannot rule out is that oracle and subject are wrong together by an amount that
looks like rounding. Here only the subject rounds. The problem it is given is the exact one too: its
data are floats of the subject's own precision.
"""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from verification.claims.evidence import Evidence, worst
from verification.claims.finite_steps import CG_STEPS, DESCENT_STEPS, drawn_sizes, step_size_for
from verification.oracles import adjoint, finite_steps_tolerance, rational, tolerance
from verification.oracles import enclosures as balls
from verification.oracles.rounding import unit_roundoff
from verification.problems import LC, Quad
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import Subject

LARGEST_CONDITION = 20.0  # gradient descent to round-off takes kappa ln(1/u)/2 steps
DTYPES: tuple[tuple[torch.dtype, type[np.floating]], ...] = (
    (torch.float64, np.float64),
    (torch.float32, np.float32),
)
Data = TypeVar("Data")


def rounded(data: Data, dtype: type[np.floating]) -> Data:
    """The same family or instance with every number rounded to this precision, kept as float64."""
    if not is_dataclass(data) or isinstance(data, type):
        raise TypeError(f"rounded() got {type(data).__name__}; it needs a dataclass of arrays.")
    changed: dict[str, Any] = {}
    for field in fields(data):
        value = getattr(data, field.name)
        if isinstance(value, np.ndarray):
            changed[field.name] = value.astype(dtype).astype(np.float64)
        else:
            changed[field.name] = rounded(value, dtype)
    return replace(data, **changed)


def exact_arithmetic(subject: Subject, seed: int) -> Evidence:
    """Rationals on Quad and enclosures on Quad and LC, float64 and float32."""
    return worst(_comparisons(subject, seed))


def _comparisons(subject: Subject, seed: int) -> Iterator[Evidence]:
    size, condition = drawn_sizes(seed)
    condition = min(condition, LARGEST_CONDITION)
    for dtype, kind in DTYPES:
        quad = instances.quad(seed=seed, batch=(2,), p=size, q=size, condition=condition)
        lc = instances.lc(seed=seed, batch=(), p=size, q=size, condition=condition)
        quad, lc = rounded(quad, kind), rounded(lc, kind)
        if dtype == torch.float64:
            yield _finite(subject, quad)
        yield from _solved(subject, quad, dtype, kind)
        yield from _solved(subject, lc, dtype, kind)


def _finite(subject: Subject, instance: Instance) -> Evidence:
    """K = 3, N = 2, warm, where a float64 oracle must allow for its own rounding as well.

    `finite_steps_tolerance` is a bound on the distance of two that round; one alone is within it.
    """
    family = instance.family
    assert isinstance(family, Quad)
    theta, phi0, v0 = instance.tensors()
    K, N, alpha = DESCENT_STEPS, CG_STEPS, step_size_for(instance)
    answer = subject(family.bilevel(), theta, phi0, v0, steps=K, max_steps=N, step_size=alpha)
    at = (instance.theta, instance.phi0, instance.v0)
    exact = rational.finite_steps(family, *at, steps=K, max_steps=N, step_size=alpha)
    allowed = finite_steps_tolerance(family, *at, steps=K, max_steps=N, step_size=alpha)
    return Evidence(
        claim="exact arithmetic",
        error=rational.distance(answer.numpy(), exact),
        tolerance=allowed.mean,
        scale=rational.norm(exact),
        where="Quad, finite K and N, against rationals",
    )


def _solved(
    subject: Subject, instance: Instance, dtype: torch.dtype, kind: type[np.floating]
) -> Iterator[Evidence]:
    family, name = instance.family, f"{type(instance.family).__name__}, {dtype}, solved"
    steps, max_steps, step_size, left = _counts(instance, kind)
    theta, phi0, v0 = instance.tensors(dtype)
    problem = family.bilevel(dtype)
    answer = subject(
        problem, theta, phi0, v0, steps=steps, max_steps=max_steps, step_size=step_size
    )
    floats = answer.to(torch.float64).numpy()
    allowed = tolerance(family, instance.theta, kind) + left
    if isinstance(family, Quad):
        exact = rational.gradient(family, instance.theta)
        yield Evidence(
            claim="exact arithmetic",
            error=rational.distance(floats, exact),
            tolerance=allowed,
            scale=rational.norm(exact),
            where=f"{name}, against rationals",
        )
        enclosure = balls.quad_gradient(family, instance.theta)
    else:
        assert isinstance(family, LC)
        enclosure = balls.lc_gradient(family, instance.theta)
    yield Evidence(
        claim="exact arithmetic",
        error=balls.distance(floats, enclosure),
        tolerance=allowed,
        scale=balls.distance(np.zeros_like(floats), enclosure),
        where=f"{name}, against an enclosure of radius {balls.radius(enclosure):.0e}",
    )


def _counts(instance: Instance, kind: type[np.floating]) -> tuple[int, int, float, float]:
    """K, N, alpha, and a bound on what is then left of Theorem A beside rounding.

    theory.md, section 2: c1 q^K D0 + L12 sqrt(kappa) ch_N (|v0 - v*| + (lam22 + rH V) q^K D0/mu),
    with K and N such that each factor is u/10; alpha = 2/(mu + L), L the largest of the tasks.
    """
    family, theta = instance.family, instance.theta
    k = family.constants(theta)
    mu, L = float(k.strong_convexity.min()), float(k.smoothness.max())
    kappa, goal = L / mu, unit_roundoff(kind) / 10
    step_size = 2 / (mu + L)
    q = (kappa - 1) / (kappa + 1)
    tau = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    steps = math.ceil(math.log(goal) / math.log(q))
    max_steps = math.ceil(math.log(goal / (2 * math.sqrt(kappa))) / math.log(tau))
    D0 = norm(instance.phi0 - family.minimiser(theta))
    away = norm(instance.v0 - adjoint(family, theta))
    away = away + (k.lam22 + k.rH * k.V) * goal * D0 / mu
    left = float((k.c1 * goal * D0 + k.L12 * goal * away).mean())
    return steps, max_steps, step_size, left
