"""Cold starts with a fixed K do not converge to the solution: where they end, and how far from it.

On Quad with exact conjugate gradients h(theta) = H_K theta - d^K, so that upper descent from
anywhere goes along theta_K + (I - eta H_K)^t (theta_0 - theta_K), theta_K = H_K^{-1} d^K, and
|grad F(theta_K)| > 0 is the floor (theory.md, sections 1 and 3).
"""

from collections.abc import Iterator

import numpy as np
import torch

from verification.claims.evidence import Evidence, worst
from verification.claims.finite_steps import drawn_sizes, step_size_for
from verification.oracles import gradient, tolerance
from verification.oracles.outer import affine, outer_constants
from verification.oracles.rounding import RECOMMENDED, unit_roundoff
from verification.problems import Quad
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import Subject

STEPS = (2, 8)  # K
UPPER_STEPS = 8
LARGEST_CONDITION = 30.0


def cold_floor(subject: Subject, seed: int) -> Evidence:
    """Cold-start floor: limit and gradient norm there, against the closed form on Quad."""
    size, condition = drawn_sizes(seed)
    condition = min(condition, LARGEST_CONDITION)
    instance = instances.quad(seed=seed, batch=(2,), p=size, q=size, condition=condition)
    return worst(piece for steps in STEPS for piece in _comparisons(subject, instance, steps))


def _comparisons(subject: Subject, instance: Instance, steps: int) -> Iterator[Evidence]:
    family = instance.family
    assert isinstance(family, Quad)
    step_size = step_size_for(instance)
    closed = affine(family, instance.phi0, steps=steps, step_size=step_size)
    H, _ = closed.mean
    limit = closed.fixed_point
    problem = family.bilevel()
    _, phi0, _ = instance.tensors()

    def h(theta: np.ndarray) -> np.ndarray:
        # 4 q steps: conjugate gradients are exact after q, but for rounding
        answer = subject(
            problem,
            torch.tensor(theta),
            phi0,
            None,
            steps=steps,
            max_steps=4 * family.lower_size,
            step_size=step_size,
        )
        return np.asarray(answer.numpy())

    eta = 1 / outer_constants(family, limit).smoothness
    theta, G = limit + instance.theta, np.eye(len(H)) - eta * H
    amplified, moved = 0.0, np.eye(len(H))
    for step in range(UPPER_STEPS):
        answer, exact = h(theta), H @ (theta - limit)
        yield Evidence(
            claim="cold-start floor",
            error=float(np.linalg.norm(answer - exact)),
            tolerance=_rounding(instance, theta),
            scale=float(np.linalg.norm(exact)),
            where=f"K = {steps}: the direction at upper step {step}",
        )
        theta = theta - eta * answer
        amplified += float(np.linalg.norm(moved, ord=2))
        moved = moved @ G
    # each step's error is carried on by the powers of I - eta H_K
    drift = eta * amplified * max(_rounding(instance, theta), _rounding(instance, limit))
    drift *= 1 + float(np.linalg.norm(instance.theta)) * float(np.linalg.norm(moved, ord=2))
    exact = limit + moved @ instance.theta
    yield Evidence(
        claim="cold-start floor",
        error=float(np.linalg.norm(theta - exact)),
        tolerance=drift,
        scale=float(np.linalg.norm(exact)),
        where=f"K = {steps}: theta after {UPPER_STEPS} upper steps",
    )
    answer = h(limit)
    floor = float(np.linalg.norm(gradient(family, limit)))
    bias = float(np.linalg.norm(answer - gradient(family, limit)))
    yield Evidence(
        claim="cold-start floor",
        error=abs(bias - floor),
        tolerance=_rounding(instance, limit),
        scale=floor,
        where=f"K = {steps}: |grad F(theta_K)| is the whole bias, the direction there is zero",
    )


def _rounding(instance: Instance, theta: np.ndarray) -> float:
    """Rounding error of h at this theta, at most: 1e2 u kappa Xi, and the start's share.

    `tolerance` is Theorem FP's (theory.md, section 6) at phi*. K steps from phi_0 end at a point of
    norm at most |phi*| + |phi_0 - phi*|, whose distance from phi* enters with c1 kappa as phi* does
    in kappa Xi; alpha L (|phi_0| + |phi*|) u is the rounding of a step, and 1/(alpha mu) their sum.
    """
    family = instance.family
    k = family.constants(theta)
    away = norm(instance.phi0 - family.minimiser(theta))
    extra = float((k.c1 * k.condition * away).mean())
    return tolerance(family, theta) + RECOMMENDED * unit_roundoff() * extra
