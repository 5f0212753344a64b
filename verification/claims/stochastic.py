"""Sampled tasks: the expectations of Theorems 1 and 2s, over every path of batches there is.

With few tasks and steps all batches can be enumerated, so that an expectation is a finite sum: no
randomness, no confidence interval (theory.md, sections 3 and 5).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from verification.claims.evidence import Evidence, worst
from verification.claims.observed import Counts, observe, require_finite
from verification.claims.warm_starts import strongly_convex
from verification.oracles import adjoint, task_gradients
from verification.oracles.bounds import a_priori, rounding
from verification.oracles.moments import Moments, SampledDescent, batches, omega
from verification.oracles.outer import affine, outer_constants, value
from verification.problems import LC, LeastSquares, Quad, take
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.problems.drawn import Generator, Instance
from verification.subjects.algorithm1 import Subject

TASKS = 3
# theory.md, section 5 (D11): the law of the batch mean, to 1e-9 of what is compared
ENUMERATED = 1e-9
# of sums that are bounds: a few hundred terms, each rounded by Theorem FP's 1e2 u kappa Xi at most
ROUNDING = 1e-9


@dataclass(frozen=True)
class Sampling:
    """Settings of a step: the draw of tasks, and Algorithm 1's counts."""

    batch: int
    replacement: bool
    eta: float
    steps: int
    max_steps: int
    step_size: float

    @property
    def share(self) -> float:
        """omega/b."""
        return omega(TASKS, self.batch, replacement=self.replacement) / self.batch

    @property
    def counts(self) -> Counts:
        """K, N and alpha, as keywords."""
        return {"steps": self.steps, "max_steps": self.max_steps, "step_size": self.step_size}

    def __str__(self) -> str:
        how = "with" if self.replacement else "without"
        return f"b = {self.batch} of {TASKS} {how} replacement"


Node = tuple[np.ndarray, float]  # a theta and its probability


def _levels(
    subject: Subject, instance: Instance, s: Sampling, upper_steps: int
) -> list[list[Node]]:
    """Every theta_t with its probability, for t = 0, ..., T."""
    every = list(batches(TASKS, s.batch, replacement=s.replacement))
    problems = [take(instance.family, np.array(chosen)).bilevel() for chosen, _ in every]
    starts = [torch.tensor(instance.phi0[list(chosen)]) for chosen, _ in every]
    levels: list[list[Node]] = [[(instance.theta, 1.0)]]
    for _ in range(upper_steps):
        level: list[Node] = []
        for theta, weight in levels[-1]:
            at = torch.tensor(theta)
            for problem, phi0, (_, chance) in zip(problems, starts, every, strict=True):
                h = subject(problem, at, phi0, None, **s.counts).numpy()
                level.append((require_finite(theta - s.eta * h), weight * chance))
        levels.append(level)
    return levels


def enumerated_moments(subject: Subject, seed: int) -> Evidence:
    """Over all paths of batches theta_T has the mean and covariance of the moment recursion."""
    return worst(_moments(subject, seed))


def _moments(subject: Subject, seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 12])
    instance = instances.quad(seed=seed, batch=(TASKS,), p=2, q=3, condition=5.0)
    family, p = instance.family, len(instance.theta)
    assert isinstance(family, Quad)
    k = family.constants(instance.theta)
    eta = float(rng.uniform(0.2, 0.8)) / outer_constants(family, instance.theta).smoothness
    for batch, replacement, T in ((1, True, 2), (2, False, 2), (2, True, 1)):
        s = Sampling(batch, replacement, eta, 3, 6, 0.9 / float(k.smoothness.max()))
        leaves = _levels(subject, instance, s, T)[-1]
        maps = affine(family, instance.phi0, steps=s.steps, step_size=s.step_size)
        descent = SampledDescent(maps, eta, s.share)
        exact = Moments(instance.theta, np.zeros((p, p)))
        for _ in range(T):
            exact = descent.step(exact)
        mean = sum((weight * theta for theta, weight in leaves), np.zeros(p))
        covariance = sum(
            (weight * np.outer(theta - mean, theta - mean) for theta, weight in leaves),
            np.zeros((p, p)),
        )
        for what, got, expected in (
            ("mean", mean, exact.mean),
            ("covariance", covariance, exact.covariance),
        ):
            yield Evidence(
                claim="enumerated moments",
                error=float(np.linalg.norm(got - expected)),
                tolerance=ENUMERATED * float(np.linalg.norm(expected)),
                scale=float(np.linalg.norm(expected)),
                where=f"{what} of theta after {T} steps, {s}",
            )


def attained(rng: Generator) -> Instance:
    """Tasks with H_i = L I started at the solution: Theorem 1 is an equality at eta = 1/L.

    E|grad F(theta_t)|^2 = (omega/b) sigma^2 for t >= 1, and F_0 - E F_T = -(omega/b) sigma^2/(2L).
    """
    size = 2
    eye = np.broadcast_to(np.eye(size), (TASKS, size, size)).copy()
    family = Quad(
        A=eye * float(rng.uniform(0.5, 2)),
        B=eye * float(rng.uniform(0.5, 2)),
        c=rng.standard_normal((TASKS, size)),
        upper=LeastSquares(
            P=eye * float(rng.uniform(0.5, 2)),
            t=rng.standard_normal((TASKS, size)),
            Q=eye * float(rng.uniform(0.1, 0.5)),
            r=np.full(TASKS, float(rng.uniform(0.5, 2))),
        ),
    )
    H, d = (part.mean(0) for part in family.normal_equations())
    starts = rng.standard_normal((2, TASKS, size))
    return Instance(family, np.linalg.solve(H, d), starts[0], starts[1])


def theorem_1(subject: Subject, seed: int) -> Evidence:
    """The mean of E|grad F|^2 is at most Theorem 1's bound, in exact expectation."""
    rng = np.random.default_rng([seed, 13])
    quad = instances.quad(seed=seed, batch=(TASKS,), p=2, q=3, condition=4.0)
    lc = instances.lc(seed=seed, batch=(TASKS,), p=2, q=3, condition=4.0)
    return worst(
        [
            _theorem_1(subject, attained(rng), 1, True, 2),
            _theorem_1(subject, attained(rng), 2, False, 2),
            _theorem_1(subject, strongly_convex(quad)[0], 2, False, 1),
            _theorem_1(subject, lc, 1, True, 1),
        ]
    )


def _theorem_1(
    subject: Subject, instance: Instance, batch: int, replacement: bool, upper_steps: int
) -> Evidence:
    family, theta = instance.family, instance.theta
    assert isinstance(family, Quad | LC)
    c = outer_constants(family, theta)
    step_size = 2 / (c.mu + c.L)
    # what is left of phi_0 - phi* is e^-20 = 2e-9; where mu = L a single step leaves nothing
    K = math.ceil(20 / -math.log(max(c.descent_rate(step_size), 1e-9)))
    s = Sampling(batch, replacement, 1 / c.smoothness, K, 8, step_size)
    levels = _levels(subject, instance, s, upper_steps)
    squares, allowed, first = 0.0, 0.0, value(family, theta)
    for level in levels[:-1]:
        for at, weight in level:
            tasks = task_gradients(family, at)
            mean = tasks.mean(0)
            delta = a_priori(family, at, instance.phi0, None, **s.counts)
            sigma = math.sqrt(float(np.square(tasks - mean).sum(-1).mean()))
            # sigma_h <= sigma + the root mean square of delta (theory.md, section 3)
            noise = (sigma + float(np.sqrt(np.square(delta).mean()))) ** 2
            squares += weight * float(mean @ mean)
            allowed += weight * (float(delta.mean()) ** 2 + c.smoothness * s.eta * s.share * noise)
    gain = first - sum(weight * value(family, at) for at, weight in levels[-1])
    size = squares + allowed + 2 * abs(first) / s.eta
    return Evidence(
        claim="Theorem 1",
        # what is negative on one side stands on the other
        error=squares + 2 * max(-gain, 0.0) / s.eta,
        tolerance=allowed + 2 * max(gain, 0.0) / s.eta + ROUNDING * size,
        scale=squares,
        where=f"{type(family).__name__}, T = {upper_steps}, {s}",
    )


def theorem_2s(subject: Subject, seed: int) -> Evidence:
    """With each task's own memory, however stale, Theorem 2s holds in exact expectation."""
    return worst(_theorem_2s(subject, seed))


def _theorem_2s(subject: Subject, seed: int) -> Iterator[Evidence]:
    instance = instances.quad(seed=seed, batch=(TASKS,), p=2, q=3, condition=4.0)
    instance, _ = strongly_convex(instance)
    family, theta = instance.family, instance.theta
    assert isinstance(family, Quad)
    c = outer_constants(family, theta)
    eta, step_size, pi = 1 / c.smoothness, 2 / (c.mu + c.L), 1 / TASKS
    w0 = c.A * c.s + c.L12 * c.l_v
    r = min(0.5, pi / (16 * w0 * eta))
    root = math.sqrt(c.L / c.mu)
    K = math.ceil(math.log((2 + r) / r) / -math.log(c.descent_rate(step_size)))
    N = math.ceil(math.log(2 * root / r) / -math.log((root - 1) / (root + 1)))
    problems = [take(family, np.array([task])).bilevel() for task in range(TASKS)]

    def errors(at: np.ndarray, phi: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Z of each task: A |phi - phi*| + L12 |v - v*| at this theta."""
        away = norm(v - adjoint(family, at))
        return np.asarray(c.A * norm(phi - family.minimiser(at)) + c.L12 * away)

    first = errors(theta, instance.phi0, instance.v0)
    nodes = [(theta, instance.phi0, instance.v0, 1.0)]
    squares, variance, T = 0.0, 0.0, 2
    for _ in range(T):
        reached = []
        for at, phi, v, weight in nodes:
            tasks = task_gradients(family, at)
            squares += weight * float(np.square(tasks.mean(0)).sum())
            variance = max(variance, float(np.square(tasks - tasks.mean(0)).sum(-1).mean()))
            for task, problem in enumerate(problems):
                one = [task]
                now = observe(
                    subject,
                    problem,
                    at,
                    phi[one],
                    v[one],
                    steps=K,
                    max_steps=N,
                    step_size=step_size,
                )
                new_phi, new_v = phi.copy(), v.copy()
                new_phi[task], new_v[task] = now.phi[0], now.v[0]
                left = errors(at, new_phi, new_v)[task]
                slack = rounding(family, at, new_phi, new_v)[task]
                yield Evidence(
                    claim="Theorem 2s",
                    error=float(left),
                    tolerance=float(r * errors(at, phi, v)[task] + slack),
                    scale=float(left),
                    where=f"what a visit leaves of a task's error, r = {r:.2g}",
                )
                reached.append((require_finite(at - eta * now.h), new_phi, new_v, weight * pi))
        nodes = reached
    H, d = (part.mean(0) for part in family.normal_equations())
    gap = value(family, theta) - value(family, np.linalg.solve(H, d))
    gamma = pi * (1 - r**2)
    chi = r * w0 * eta / gamma
    bound = 20 / 7 * gap / eta + 72 / 7 * r**2 * float(np.square(first).mean()) / gamma
    bound += T * (20 / 7 * c.smoothness * eta + 432 / 7 * chi**2) * variance
    yield Evidence(
        claim="Theorem 2s",
        error=squares,
        tolerance=bound,
        scale=squares,
        where=f"T = {T}, one of {TASKS} tasks a step, K = {K}, N = {N}",
    )
