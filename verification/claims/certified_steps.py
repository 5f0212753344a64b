"""Theorem 3: upper descent whose every step is certified converges without any bias term.

The subject continues both loops until it can certify an error of at most nu |h|. That error is
measured, and so is what the descent gains. On `sharp` problems (p = q = 1) the certificate is the
error itself: there a hypergradient that is accepted too early is seen.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from hypergrad import CG, GradientDescent
from hypergrad.theory import Constants, solve_adaptively
from verification.claims.certificates import proven
from verification.claims.error_bounds import sharp
from verification.claims.evidence import Evidence, worst
from verification.claims.observed import Observed, require_finite
from verification.oracles import gradient
from verification.oracles.bounds import rounding
from verification.oracles.outer import outer_constants, value, value_scale
from verification.oracles.rounding import RECOMMENDED, unit_roundoff
from verification.problems import LC, Quad
from verification.problems import drawn as instances
from verification.problems.drawn import Instance
from verification.subjects.bug import Kind, source_bugs

UPPER_STEPS = 6
ROUND = (3, 1)  # K and N of one round: too few by themselves


@runtime_checkable
class CertifiedStep(Protocol):
    """Subject that returns h, phi and v such that h errs by at most nu |h|."""

    def __call__(
        self, instance: Instance, at: Observed, theta: np.ndarray, constants: Constants, nu: float
    ) -> Observed:
        """Both loops, continued from the phi and v of `at`, at this theta."""
        ...


def certified_step(
    instance: Instance, at: Observed, theta: np.ndarray, constants: Constants, nu: float
) -> Observed:
    """The library's `solve_adaptively`."""
    steps, max_steps = ROUND
    assert constants.smoothness is not None
    largest = float(torch.as_tensor(constants.smoothness.value).max())
    found = solve_adaptively(
        instance.family.bilevel(),
        torch.tensor(theta),
        torch.tensor(at.phi),
        constants=constants,
        nu=nu,
        by=GradientDescent(max_steps=steps, step_size=0.25 / largest),
        solver=CG(max_steps=max_steps, rtol=0.0),
        start=torch.tensor(at.v),
    )
    return Observed(h=found.hypergradient.grad.numpy(), phi=found.phi.numpy(), v=found.v.numpy())


def certified_descent(subject: CertifiedStep, seed: int) -> Evidence:
    """Steps certified to nu |h| are that exact, and descend as Theorem 3 says, from any start."""
    rng = np.random.default_rng([seed, 6])
    lc = instances.lc(seed=seed, batch=(3,), p=3, q=4, condition=float(rng.uniform(3, 10)))
    problems = [lc, sharp(rng), sharp(rng)]
    return worst(
        piece
        for instance in problems
        for piece in _comparisons(subject, instance, float(rng.uniform(0.2, 0.6)))
    )


def _comparisons(subject: CertifiedStep, instance: Instance, nu: float) -> Iterator[Evidence]:
    family, theta = instance.family, instance.theta
    assert isinstance(family, Quad | LC)
    # but for V, which no certificate needs, the constants hold at every theta
    constants = proven(family.constants(theta))
    L_F = outer_constants(family, theta).smoothness
    eta = (1 - nu**2) / L_F
    now = Observed(h=np.zeros_like(theta), phi=instance.phi0, v=instance.v0)
    squares, first = 0.0, value(family, theta)
    u = RECOMMENDED * unit_roundoff()
    for step in range(UPPER_STEPS):
        now = subject(instance, now, theta, constants, nu)
        exact = gradient(family, theta)
        slack = float(
            rounding(family, theta, require_finite(now.phi), require_finite(now.v)).mean()
        )
        where = f"{type(family).__name__}, p = {len(theta)}, nu = {nu:.2f}, step {step}"
        yield Evidence(
            claim="certified steps",
            error=float(np.linalg.norm(now.h - exact)),
            tolerance=nu * float(np.linalg.norm(now.h)) + slack,
            scale=float(np.linalg.norm(exact)),
            where=f"the share of error; {where}",
        )
        squares += float(exact @ exact)
        theta = require_finite(theta - eta * now.h)
        gain = first - value(family, theta)
        size = value_scale(family, theta) + value_scale(family, instance.theta)
        yield Evidence(
            claim="certified steps",
            error=squares + 2 * max(-gain, 0.0) / eta,
            tolerance=2 * max(gain, 0.0) / eta + 2 * u * size / eta,
            scale=squares,
            where=f"Theorem 3 for T = {step + 1}; {where}",
        )


KIND = Kind(
    "certified steps",
    certified_step,
    source_bugs(
        certified_step,
        "Theorem 3",
        (
            ("T01", "accepts 2 nu", "theory.adaptive", "share <= nu", "share <= 2 * nu"),
            ("T02", "accepts the first round", "theory.adaptive", "share <= nu", "True"),
            (
                "T03",
                "the best task for the mean",
                "theory.adaptive",
                "bounds.value).mean()",
                "bounds.value).min()",
            ),
            (
                "T04",
                "forgets v between rounds",
                "theory.adaptive",
                "start = like(phi, unflatten(answer.certificate.adjoint.x, leaves(phi)))",
                "start = None",
            ),
            ("T05", "share of 1 + |h|", "theory.adaptive", "error / size", "error / (1 + size)"),
        ),
    ),
)
