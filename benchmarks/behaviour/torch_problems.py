"""The problems as torch functions, and the answers of what attaches a finished minimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from benchmarks.behaviour.asked import Answer
from benchmarks.behaviour.problems import (
    DESCENT_STEPS,
    HESSIAN_UNIT,
    INDEFINITE,
    MATRIX,
    SLOW,
    SMALL,
    SOLUTION,
    TWO_TASKS,
)

Lower: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Unroll: TypeAlias = Callable[[Lower, Tensor, Tensor, int, float], Tensor]
Attach: TypeAlias = Callable[[Lower, Tensor, Tensor], Tensor]

ENOUGH = 200  # steps of size 0.25: the slowest of these problems contracts by 0.75 in each


def vector(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def leaf(values: Sequence[float] | Sequence[Sequence[float]] | float) -> Tensor:
    """A float64 tensor that requires grad."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def quadratic(h: Tensor) -> Lower:
    """``phi' diag(h) phi / 2 - theta' phi``; its minimiser is ``theta / h`` where h > 0."""
    return lambda theta, phi: (h * phi.square()).sum() / 2 - (theta * phi).sum()


def quadratic_of_tasks(theta: Tensor, phi: Tensor) -> Tensor:
    """The two tasks' quadratics, one value for each; ``(2, 2)`` to ``(2,)``."""
    return (vector(TWO_TASKS) * phi.square() / 2 - theta * phi).sum(-1)


def half_square(phi: Tensor) -> Tensor:
    """``|phi|^2/2``."""
    return phi.square().sum() / 2


def small_second(phi: Tensor) -> Tensor:
    """The two tasks' upper objectives together."""
    return phi[0].sum() + SMALL * phi[1].sum()


def descended() -> Tensor:
    """End of `DESCENT_STEPS` steps of size 1 from zero, at theta = (1, 1)."""
    phi, h = torch.zeros(2, dtype=torch.float64), vector(SLOW)
    for _ in range(DESCENT_STEPS):
        phi = phi - (h * phi - 1)
    return phi


def curved(theta: Tensor, phi: Tensor) -> Tensor:
    """``phi' (A + diag exp(theta)) phi/2 - sum phi``."""
    return phi @ vector(MATRIX) @ phi / 2 + (theta.exp() * phi.square() / 2 - phi).sum()


def numbers(*values: Tensor | None) -> list[float | None]:
    """All entries of the given tensors, None for one that is None."""
    found: list[float | None] = []
    for value in values:
        found += [None] if value is None else value.detach().reshape(-1).tolist()
    return found


def hessian(loss: Tensor, theta: Tensor) -> list[float | None]:
    """The loss's Hessian, row by row, in units of `HESSIAN_UNIT`."""
    (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
    rows = [torch.autograd.grad(entry, theta, retain_graph=True)[0] for entry in gradient]
    return numbers(torch.stack(rows) / HESSIAN_UNIT)


def attached_answers(attach: Attach, *, batched: Lower | None = None) -> dict[str, Answer | str]:
    """Answers to all cases but the active set's, of anything with `attach`'s meaning.

    Args:
        attach: ``(lower, theta, phi)`` to phi as a differentiable value.
        batched: the lower objective of the two tasks, where it is not the sum over both.
    """

    def first(
        lower: Lower, theta: Tensor, phi: Tensor, upper: Callable[[Tensor], Tensor]
    ) -> Tensor:
        return torch.autograd.grad(upper(attach(lower, theta, phi)), theta)[0]

    def second() -> list[float | None]:
        theta = leaf([0.0, 0.0])
        loss = attach(curved, theta, vector(SOLUTION)).sum()
        return hessian(loss, theta)

    def captured() -> list[float | None]:
        c, theta = leaf([0.0, 0.0]), leaf([1.0, 1.0])

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            return half_square(phi - theta - c)

        loss = attach(lower, theta, theta.detach().clone()).sum()
        return numbers(torch.autograd.grad(loss, c, allow_unused=True)[0])

    def batches() -> list[float | None]:
        h, theta = vector(TWO_TASKS), leaf([[1.0, 1.0], [1.0, 1.0]])
        lower = batched or quadratic(h)
        gradient = first(lower, theta, 1 / h, small_second)
        return numbers(gradient[1] / SMALL)

    ones = [1.0, 1.0]
    slow = quadratic(vector(SLOW))
    saddle = vector(INDEFINITE)
    return {
        "indefinite": lambda: numbers(first(quadratic(saddle), leaf(ones), 1 / saddle, torch.sum)),
        "unconverged": lambda: numbers(first(slow, leaf(ones), descended(), half_square)),
        "no_minimiser": lambda: numbers(
            first(slow, leaf(ones), torch.zeros(2, dtype=torch.float64), half_square)
        ),
        "zero_dim": lambda: numbers(
            first(quadratic(vector([2.0])[0]), leaf(1.0), vector([0.5])[0], lambda phi: phi)
        ),
        "second": second,
        "captured": captured,
        "batches": batches,
    }


def unrolled_answers(unroll: Unroll) -> dict[str, Answer | str]:
    """Answers of a peer that differentiates through descent steps, enough of them by default."""

    def first(
        lower: Lower,
        theta: Tensor,
        start: Tensor,
        upper: Callable[[Tensor], Tensor],
        *,
        steps: int = ENOUGH,
        rate: float = 0.25,
    ) -> Tensor:
        return torch.autograd.grad(upper(unroll(lower, theta, start, steps, rate)), theta)[0]

    def second() -> list[float | None]:
        theta = leaf([0.0, 0.0])
        return hessian(unroll(curved, theta, vector([0.0, 0.0]), ENOUGH, 0.25).sum(), theta)

    def captured() -> list[float | None]:
        c, theta = leaf([0.0, 0.0]), leaf([1.0, 1.0])

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            return half_square(phi - theta - c)

        loss = unroll(lower, theta, vector([0.0, 0.0]), ENOUGH, 0.25).sum()
        return numbers(torch.autograd.grad(loss, c, allow_unused=True)[0])

    def batches() -> list[float | None]:
        theta = leaf([[1.0, 1.0], [1.0, 1.0]])
        lower = quadratic(vector(TWO_TASKS))
        gradient = first(lower, theta, torch.zeros_like(theta).detach(), small_second)
        return numbers(gradient[1] / SMALL)

    ones, zeros = [1.0, 1.0], vector([0.0, 0.0])
    slow = quadratic(vector(SLOW))
    saddle = vector(INDEFINITE)
    return {
        "indefinite": lambda: numbers(first(quadratic(saddle), leaf(ones), 1 / saddle, torch.sum)),
        "unconverged": lambda: numbers(
            first(slow, leaf(ones), zeros, half_square, steps=DESCENT_STEPS, rate=1.0)
        ),
        "no_minimiser": lambda: numbers(
            first(slow, leaf(ones), zeros, half_square, steps=1, rate=0.0)
        ),
        "zero_dim": lambda: numbers(
            first(quadratic(vector([2.0])[0]), leaf(1.0), vector([0.0])[0], lambda phi: phi)
        ),
        "second": second,
        "active_set": "no constraints",
        "captured": captured,
        "batches": batches,
    }


class Held(torch.nn.Module):
    """A module that holds one tensor, for what differentiates modules; a call evaluates g."""

    def __init__(self, lower: Lower, phi: Tensor) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(phi.detach().clone())
        self.lower = lower

    def forward(self, theta: Tensor) -> Tensor:
        return self.lower(theta, self.value)
