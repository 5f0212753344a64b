"""Matrices of low rank, their derivatives and certificates, against singular value thresholding.

Y and the strength are affine in theta. Singular values are at least 1/4 from the strength; some
coincide, and tasks of one batch differ in rank.

Tolerances. On matrices of rank r ``|X - Y|^2/2 + strength |X|_*`` has a curvature of 1 at least and
of ``kappa = 1 + strength/s_r`` at most. The lower solver leaves phi off by ``rtol`` times the
gradient's terms, at most ``|X| + |Y|``, and the derivative turns by ``kappa/s_r`` times that.
Rounding is relative to ``kappa |Y|/s_r``: the blocks are scaled by singular values.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypergrad import Bilevel
from hypergrad.conditions import Composite, NuclearNorm
from verification.claims.evidence import Evidence, worst
from verification.claims.kinks import RTOL, KinkSubject, solved
from verification.oracles.thresholding import Thresholded
from verification.problems.drawn import note
from verification.subjects.bug import Kind, source_bugs

_U = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Task:
    """``Y = Y_0 + sum_k theta_k B_k`` and ``strength = strength_0 + slope theta``.

    Attributes:
        Y: ``(m, n)`` Y_0.
        B: ``(m, n, p)``.
        strength: strength_0.
        slope: ``(p,)``.
    """

    Y: np.ndarray
    B: np.ndarray
    strength: float
    slope: np.ndarray


def drawn(rng: np.random.Generator, theta: np.ndarray, m: int, n: int) -> Task:
    """A task whose Y has singular values of 1/4 to 3 beside a strength of 1, at theta."""
    k = min(m, n)
    s = np.where(rng.random(k) < 0.5, rng.uniform(1.25, 3, k), rng.uniform(0, 0.75, k))
    if rng.random() < 0.5:
        s[-1] = s[0]  # singular vectors without a derivative
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (m, n))
    B, slope = rng.standard_normal((m, n, len(theta))), rng.uniform(-1, 1, len(theta)) / 4
    Y = left[:, :k] * s @ right[:, :k].T
    return Task(Y - B @ theta, B, 1.0 - float(slope @ theta), slope)


def low_rank_solved(subject: KinkSubject, seed: int) -> Evidence:
    """Solutions of low rank and their derivatives are those of singular value thresholding."""
    rng = np.random.default_rng([seed, 34])
    batch = (((), (3,), (2, 2)))[seed % 3]
    m, n, p = (int(rng.integers(*ends)) for ends in ((2, 6), (2, 6), (1, 3)))
    theta, weights = rng.uniform(-1, 1, p), rng.standard_normal((m, n))
    tasks = [drawn(rng, theta, m, n) for _ in range(int(np.prod(batch)))]
    for task in tasks:
        note(task, theta)
    answer = subject(
        _bilevel(tasks, batch, weights),
        torch.tensor(theta),
        torch.zeros(*batch, m, n, dtype=torch.float64),
        far=False,
    )
    exact = [Thresholded.of(task.Y + task.B @ theta, 1.0) for task in tasks]
    phi = np.stack([one.solution() for one in exact])
    slopes = [_slope(one, task) for one, task in zip(exact, tasks, strict=True)]
    grad = np.mean([np.einsum("mnp,mn->p", slope, weights) for slope in slopes], axis=0)
    where, count = f"{m} by {n}, ranks {[one.rank for one in exact]}", len(tasks)
    off = answer.phi.reshape(phi.shape).numpy() - phi
    bounds = [_bounds(one, task) for one, task in zip(exact, tasks, strict=True)]
    allowed = max(bound for _, bound in bounds) * float(np.linalg.norm(weights))
    return worst(
        [
            Evidence(
                "solution",
                float(np.abs(off).max()),
                max(error for error, _ in bounds),
                1.0,
                where,
                count,
            ),
            Evidence(
                "derivative",
                float(np.linalg.norm(answer.grad.numpy() - grad)),
                allowed,
                float(np.linalg.norm(grad)),
                where,
                count,
            ),
            Evidence("certificate", float((~answer.solved).sum()), 0.5, 1.0, where, count),
        ]
    )


def _bilevel(
    tasks: list[Task], batch: tuple[int, ...], weights: np.ndarray
) -> Bilevel[Tensor, Tensor]:
    def stacked(name: str) -> Tensor:
        parts = np.stack([np.asarray(getattr(task, name)) for task in tasks])
        return torch.tensor(parts.reshape((*batch, *parts.shape[1:])))

    Y, B, strength, slope = (stacked(name) for name in ("Y", "B", "strength", "slope"))
    w = torch.tensor(weights)

    def near(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - Y - B @ theta).square().sum((-1, -2)) / 2

    def moving(theta: Tensor) -> Tensor:
        return (strength + slope @ theta)[..., None, None]

    lower: Any = Composite(near, NuclearNorm(moving))
    return Bilevel(upper=lambda theta, phi: (phi * w).sum((-1, -2)), lower=lower)


def _slope(exact: Thresholded, task: Task) -> np.ndarray:
    each = [
        exact.along(task.B[..., k]) + rate * exact.along_strength()
        for k, rate in enumerate(task.slope)
    ]
    return np.stack(each, axis=-1)


def _bounds(exact: Thresholded, task: Task) -> tuple[float, float]:
    """Tolerances on phi and on the derivative's entries together."""
    size = float(np.linalg.norm(exact.values))
    least = float(exact.kept[exact.rank - 1]) if exact.rank else 1.0
    kappa = 1 + exact.strength / least
    phi = 3 * RTOL * 2 * size + 1e2 * _U * size
    moved = float(np.linalg.norm(task.B)) + len(exact.values) ** 0.5 * float(
        np.linalg.norm(task.slope)
    )
    return phi, (1e2 * _U * kappa * size / least + phi * kappa / least) * moved


KIND = Kind(
    "matrices of low rank",
    solved,
    source_bugs(
        solved,
        "low rank",
        (
            (
                "N01",
                "the curvature of the manifold is missing: its tangent plane in its place",
                "conditions.nuclear",
                "found: Tensor = at.tall @ at.down",
                "out = x - at.columns().detach() @ x; found = x - out + out @ at.rows().detach()",
            ),
            (
                "N02",
                "the curvature of the norm is missing",
                "conditions.nuclear",
                "terms = (_polar(square, *self._range) * square)",
                "terms = (_polar(square, *self._range).detach() * square)",
            ),
            (
                "N03",
                "the rank is wrong by one",
                "conditions.nuclear",
                "self.active = s > least * largest",
                "self.active = (s > least * largest).roll(1, -1)",
            ),
            (
                "N04",
                "the proximal map shrinks by half",
                "conditions.nuclear",
                "left = (s - (step * strength)[..., 0])",
                "left = (s - (step * strength)[..., 0] / 2)",
            ),
        ),
    ),
)
