"""Draws of quadratics with bounds, kinks and equations, whose data are multiples of 1/16."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hypergrad import Bilevel
from hypergrad.conditions import L1, Affine, Box, Composite, Constrained, L2Ball, Simplex
from verification.problems.base import Batch
from verification.problems.drawn import note
from verification.problems.kinks import Condition, Kinked

MOVING: tuple[Condition, ...] = ("box", "simplex", "lasso")  # that have an active set
KINDS: tuple[Condition, ...] = (*MOVING, "equations")
# integer vectors of integer length
_LENGTHS = {2: (3, 4), 3: (2, 3, 6), 4: (2, 4, 5, 6)}


@dataclass(frozen=True)
class Drawn:
    """Tasks of one kind, which share theta.

    Attributes:
        tasks: each task, in row-major order.
        batch: their dimensions.
        theta: ``(p,)``.
        weights: ``(n,)`` weights of the upper objective ``weights' phi``.
    """

    tasks: tuple[Any, ...]
    batch: Batch
    theta: np.ndarray
    weights: np.ndarray

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """theta, and a start for phi."""
        start = torch.zeros(*self.batch, len(self.weights), dtype=torch.float64)
        return torch.tensor(self.theta), start

    def bilevel(self) -> Bilevel[torch.Tensor, torch.Tensor]:
        """The problem for the library."""
        Q, c, B = (self._stacked(name) for name in ("Q", "c", "B"))
        first, slope, second = (self._stacked(s) for s in ("first", "first_slope", "second"))
        weights = torch.tensor(self.weights)

        def g(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
            bent = (Q @ phi[..., None])[..., 0] / 2 - c - B @ theta
            return (phi * bent).sum(-1)

        def moving(theta: torch.Tensor) -> torch.Tensor:
            return first + slope @ theta

        lower: Any
        match self.tasks[0].kind:
            case "box":
                lower = Constrained(g, Box(moving, second))
            case "simplex":
                lower = Constrained(g, Simplex(moving))
            case "lasso":
                lower = Composite(g, L1(moving))
            case "equations":
                lower = Constrained(g, Affine(second, moving))
            case _:
                lower = Constrained(g, L2Ball(moving))
        return Bilevel(upper=lambda theta, phi: (phi * weights).sum(-1), lower=lower)

    def _stacked(self, name: str) -> torch.Tensor:
        parts = [np.asarray(getattr(task, name)) for task in self.tasks]
        return torch.tensor(np.stack(parts).reshape(*self.batch, *parts[0].shape))


@dataclass(frozen=True)
class OnBall:
    """A quadratic in a ball whose bound is active, made from its solution.

    ``(Q + multiplier I) solution = c + B theta`` with ``|solution| = radius`` at theta.
    """

    kind: str
    Q: np.ndarray
    c: np.ndarray
    B: np.ndarray
    first: np.ndarray  # the radius is first + first_slope theta
    first_slope: np.ndarray
    second: np.ndarray
    solution: np.ndarray
    multiplier: float


def kinked(seed: int, kind: Condition) -> Drawn:
    """Tasks of a kind; n to 4, p to 2, batch shapes (), (T,), (S, T)."""
    return _noted(_kinked(seed, kind))


def _kinked(seed: int, kind: Condition) -> Drawn:
    rng, batch = _begun(seed, KINDS.index(kind))
    n, p = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    m = {"simplex": 1, "equations": min(n, 2)}.get(kind, n)
    theta = _sixteenths(rng, -8, 8, p)
    tasks = []
    for _ in range(int(np.prod(batch))):
        first = {
            "box": _sixteenths(rng, -16, -4, n),
            "simplex": _sixteenths(rng, 12, 24, 1),
            "lasso": _sixteenths(rng, 8, 20, n),
            "equations": _sixteenths(rng, -16, 16, m),
        }[kind]
        second = {
            "box": _sixteenths(rng, 4, 16, n),
            # rows of full rank: a unit triangle first
            "equations": np.concatenate([np.eye(m), _sixteenths(rng, -8, 8, m, n - m)], axis=1),
        }.get(kind, np.zeros(0))
        tasks.append(
            Kinked(
                kind,
                _definite(rng, n),
                _sixteenths(rng, -24, 24, n),
                _sixteenths(rng, -16, 16, n, p),
                first,
                _sixteenths(rng, -1, 1, m, p),
                second,
            )
        )
    return Drawn(tuple(tasks), batch, theta, _sixteenths(rng, 1, 16, n))


def degenerate(seed: int, kind: Condition) -> Drawn:
    """Tasks whose first entry is held with multiplier zero: made from the solution."""
    drawn = _kinked(seed, kind)
    rng = np.random.default_rng([seed, 33])
    tasks = []
    for task in drawn.tasks:
        first = task.first + task.first_slope @ drawn.theta
        n = len(task.c)
        phi, gradient = _sixteenths(rng, 1, 3, n), np.zeros(n)  # inside of every box
        match kind:
            case "box":
                phi[0] = task.second[0]
            case "lasso":
                phi[0], gradient = 0.0, -first
            case "simplex":
                phi[0] = 0.0
                first = np.array([phi.sum()])
            case "equations":
                raise ValueError("equations are never degenerate.")
        pull = task.Q @ phi - gradient
        made = replace(task, c=pull - task.B @ drawn.theta)
        tasks.append(replace(made, first=first - task.first_slope @ drawn.theta))
    return _noted(replace(drawn, tasks=tuple(tasks)))


def balls(seed: int) -> Drawn:
    """Tasks in balls whose bound is active."""
    rng, batch = _begun(seed, len(KINDS))
    n, p = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    theta = _sixteenths(rng, -8, 8, p)
    tasks = []
    for _ in range(int(np.prod(batch))):
        signs = rng.choice((-1, 1), n)
        solution = signs * rng.permutation(np.array(_LENGTHS[n])) / 16
        Q, multiplier = _definite(rng, n), float(rng.integers(4, 17)) / 16
        B, slope = _sixteenths(rng, -16, 16, n, p), _sixteenths(rng, -1, 1, 1, p)
        c = (Q + multiplier * np.eye(n)) @ solution - B @ theta
        radius = np.array([np.sqrt(sum(x * x for x in _LENGTHS[n])) / 16]) - slope @ theta
        tasks.append(OnBall("ball", Q, c, B, radius, slope, np.zeros(0), solution, multiplier))
    return _noted(Drawn(tuple(tasks), batch, theta, _sixteenths(rng, 1, 16, n)))


def _noted(drawn: Drawn) -> Drawn:
    for task in drawn.tasks:
        note(task, drawn.theta)
    return drawn


def _begun(seed: int, kind: int) -> tuple[np.random.Generator, Batch]:
    rng = np.random.default_rng([seed, 31, kind])
    several: tuple[Batch, ...] = ((48,), (6, 8))  # a solve of many costs little more than of one
    return rng, several[int(rng.integers(2))] if seed % 2 else ()


def _sixteenths(rng: np.random.Generator, low: int, high: int, *shape: int) -> np.ndarray:
    return np.asarray(rng.integers(low, high + 1, shape) / 16)


def _definite(rng: np.random.Generator, n: int) -> np.ndarray:
    """A positive definite matrix with eigenvalues from 1/4 on."""
    root = _sixteenths(rng, -16, 16, n, n)
    return np.asarray(root @ root.T + np.eye(n) / 4)
