"""cvxpylayers: quadratic programmes as layers, with its default solver."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import Answer, report
from benchmarks.behaviour.problems import HESSIAN_UNIT, INDEFINITE, KINK, SLOW, SMALL, TWO_TASKS
from benchmarks.behaviour.torch_problems import half_square, leaf, numbers, vector

cvxpy: Any = importlib.import_module("cvxpy")
layers: Any = importlib.import_module("cvxpylayers.torch")


def quadratic(h: Sequence[float], *, constraints: bool = False) -> Callable[[Tensor], Tensor]:
    """theta to the minimiser of ``phi' diag(h) phi/2 - theta' phi``."""
    phi, theta = cvxpy.Variable(len(h)), cvxpy.Parameter(len(h))
    goal = cvxpy.Minimize(
        sum(entry * cvxpy.square(phi[i]) / 2 for i, entry in enumerate(h)) - theta @ phi
    )
    problem = cvxpy.Problem(goal, [phi >= 0] if constraints else [])
    layer = layers.CvxpyLayer(problem, parameters=[theta], variables=[phi])
    return lambda theta: layer(theta)[0]


def first(
    solve: Callable[[Tensor], Tensor], theta: Tensor, upper: Callable[[Tensor], Tensor]
) -> Tensor:
    """d upper/d theta."""
    return torch.autograd.grad(upper(solve(theta)), theta)[0]


def scalar() -> list[float | None]:
    """Everything of shape ()."""
    phi, theta = cvxpy.Variable(), cvxpy.Parameter()
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.square(phi) - theta * phi))
    layer = layers.CvxpyLayer(problem, parameters=[theta], variables=[phi])
    point = leaf(1.0)
    return numbers(torch.autograd.grad(layer(point)[0], point)[0])


def second() -> list[float | None]:
    """The Hessian of |phi|^2/2 for H = diag(1, 0.1): diag(1, 100); a graph is what is asked for."""
    theta = leaf([1.0, 1.0])
    (gradient,) = torch.autograd.grad(half_square(quadratic(SLOW)(theta)), theta, create_graph=True)
    rows = [torch.autograd.grad(entry, theta, retain_graph=True)[0] for entry in gradient]
    return numbers(torch.stack(rows) / HESSIAN_UNIT)


def batches() -> list[float | None]:
    """Both tasks as one batch, their curvatures scaling theta and phi."""
    scale = vector(TWO_TASKS).sqrt()  # phi = x/scale with H = 1 in x
    theta = leaf([[1.0, 1.0], [1.0, 1.0]])
    phi = quadratic((1.0, 1.0))(theta / scale) / scale
    loss = phi[0].sum() + SMALL * phi[1].sum()
    return numbers(torch.autograd.grad(loss, theta)[0][1] / SMALL)


ANSWERS: dict[str, Answer | str] = {
    "indefinite": lambda: numbers(first(quadratic(INDEFINITE), leaf([1.0, 1.0]), torch.sum)),
    "unconverged": "it solves by itself",
    "no_minimiser": "it solves by itself",
    "zero_dim": scalar,
    "second": second,
    "active_set": lambda: numbers(
        first(quadratic((1.0, 1.0, 1.0), constraints=True), leaf(KINK), torch.sum)
    ),
    "captured": "what the problem depends on is declared",
    "batches": batches,
}

if __name__ == "__main__":
    report(
        "cvxpylayers",
        ["cvxpylayers", "cvxpy", "diffcp", "torch", "numpy"],
        {"CvxpyLayer": ANSWERS},
    )
