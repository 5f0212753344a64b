"""Gradient and Hessian through a root are those of exact arithmetic.

Games of players with quadratic losses of their own, whose Jacobian is not symmetric, and linear
fixed points whose matrix is far from normal; tasks of one shape are solved together.
"""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hypergrad import attach
from hypergrad.conditions import FixedPoint, Root
from verification.claims.evidence import Evidence, worst
from verification.oracles.rational import distance
from verification.oracles.roots import LinearRoot
from verification.problems.drawn import note
from verification.subjects.bug import Kind, source_bugs


@runtime_checkable
class RootSubject(Protocol):
    """An implementation of gradient and Hessian of ``sum_i f_i`` through the tasks' roots."""

    def __call__(
        self, condition: Any, theta: Tensor, phi: Tensor, w: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``(gradient, Hessian times direction)``, one row for each task's own theta."""
        ...


def through_attach(
    condition: Any, theta: Tensor, phi: Tensor, w: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """``attach``, differentiated twice."""
    theta = theta.clone().requires_grad_()
    found = attach(condition, theta, phi)
    value = (w * found).sum() + found.square().sum() / 2
    (slope,) = torch.autograd.grad(value, theta, create_graph=True)
    (curved,) = torch.autograd.grad((slope * direction).sum(), theta)
    return slope.detach(), curved


def dyadic(rng: np.random.Generator, *shape: int) -> Any:
    """Multiples of 1/64, so that sums of a few products are exact."""
    return np.round(64 * rng.normal(size=shape)) / 64


def game(rng: np.random.Generator, q: int, p: int) -> LinearRoot:
    """Each player's loss is strongly convex in their own number; couplings have no symmetry."""
    A = dyadic(rng, q, q)
    A = np.where(np.eye(q, dtype=bool), 1 + np.abs(A).sum(axis=1), A)
    return LinearRoot(A, dyadic(rng, q, p), dyadic(rng, q), dyadic(rng, q))


def non_normal(rng: np.random.Generator, q: int, p: int) -> LinearRoot:
    """``I - M``, M with eigenvalues up to 3/4 and large entries above its diagonal."""
    M = np.triu(4 * dyadic(rng, q, q), 1) + np.diag(np.round(48 * rng.uniform(-1, 1, q)) / 64)
    return LinearRoot(np.eye(q) - M, dyadic(rng, q, p), dyadic(rng, q), dyadic(rng, q))


def exact_roots(subject: RootSubject, seed: int) -> Evidence:
    """Within 1e2 u kappa of the exact gradient and Hessian at a root; games, and linear maps."""
    rng = np.random.default_rng([seed, 31])
    count, q, p = (int(rng.integers(*ends)) for ends in ((1, 17), (2, 7), (1, 4)))
    return worst(
        _compared(subject, [draw(rng, q, p) for _ in range(count)], rng, draw is non_normal)
        for draw in (game, non_normal)
    )


def _compared(
    subject: RootSubject, tasks: list[LinearRoot], rng: np.random.Generator, mapped: bool
) -> Evidence:
    thetas, directions = (dyadic(rng, len(tasks), tasks[0].B.shape[1]) for _ in range(2))
    for task, theta in zip(tasks, thetas, strict=True):
        note(task, theta)
    A, B, c, w = (
        torch.tensor(np.stack([getattr(task, name) for task in tasks])) for name in "ABcw"
    )

    def residual(theta: Tensor, phi: Tensor) -> Tensor:
        left, right = ((m @ x[..., None])[..., 0] for m, x in ((A, phi), (B, theta)))
        return left - right - c

    condition: Any = Root(residual, tasks=1)
    if mapped:
        condition = FixedPoint(lambda theta, phi: phi - residual(theta, phi), tasks=1)
    roots = [task.root(theta) for task, theta in zip(tasks, thetas, strict=True)]
    phi = torch.tensor([[float(x) for x in root.entries()] for root in roots], dtype=torch.float64)
    slope, curved = subject(condition, torch.tensor(thetas), phi, w, torch.tensor(directions))
    found = []
    for index, (task, theta, d) in enumerate(zip(tasks, thetas, directions, strict=True)):
        condition_number = float(np.linalg.cond(task.A))
        wrong = [
            distance(slope[index].numpy(), task.gradient(theta)),
            distance(curved[index].numpy(), task.curved(d)),
        ]
        scale = task.scale(theta, d)
        found.append(
            Evidence(
                claim="roots",
                error=math.hypot(*wrong),
                tolerance=1e2 * 2.0**-53 * condition_number * scale,
                scale=scale,
                where=f"{'fixed point' if mapped else 'game'}, q = {len(task.c)}",
            )
        )
    return worst(found)


KIND = Kind(
    "differentiated at a root",
    through_attach,
    source_bugs(
        through_attach,
        "roots",
        (
            (
                "R01",
                "the transpose is forgotten",
                "implicit.saddle",
                "transposed=Operator(self.transposed",
                "transposed=Operator(self.forward",
            ),
            (
                "R02",
                "the hypergradient has the wrong sign",
                "implicit.pullback",
                "gradients = [-part for part in point.cross(v)]",
                "gradients = [part for part in point.cross(v)]",
            ),
            (
                "R03",
                "the half of the multiplier's right-hand side is dropped",
                "linear.halves",
                "if bool((d != 0).any()):",
                "if bool((d != d).any()):",
            ),
            (
                "R04",
                "a fixed point's residual has a plus",
                "conditions.fixed_point",
                "(leaf - part for",
                "(leaf + part for",
            ),
            (
                "R05",
                "the forward half is solved with the transpose",
                "implicit.saddle",
                "forward=Operator(self.forward",
                "forward=Operator(self.transposed",
            ),
            (
                "R06",
                "v is put where phi is",
                "linear.halves",
                "torch.cat([torch.zeros_like(d), backward.x], dim=-1)",
                "torch.cat([backward.x, torch.zeros_like(d)], dim=-1)",
            ),
        ),
    ),
)
