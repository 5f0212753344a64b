"""hypertorch: ``CG`` and ``fixed_point``, of 100 steps each, on the map of a descent step.

Its functions return the gradient and set ``.grad``; they are no autograd nodes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import Answer, report
from benchmarks.behaviour.problems import (
    HESSIAN_UNIT,
    INDEFINITE,
    SLOW,
    SMALL,
    SOLUTION,
    TWO_TASKS,
)
from benchmarks.behaviour.torch_problems import (
    Lower,
    curved,
    descended,
    half_square,
    leaf,
    numbers,
    quadratic,
    small_second,
    vector,
)

hypertorch: Any = importlib.import_module("hypergrad")  # its package has this project's name
STEPS, RATE = 100, 0.25


def answers(method: str) -> dict[str, Answer | str]:
    """All cases by one of its functions."""

    def gradient(
        lower: Lower, theta: Tensor, phi: Tensor, upper: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def step(params: list[Tensor], hparams: list[Tensor]) -> list[Tensor]:
            (slope,) = torch.autograd.grad(lower(hparams[0], params[0]), params, create_graph=True)
            return [params[0] - RATE * slope]

        found: list[Tensor] = getattr(hypertorch, method)(
            [phi], [theta], STEPS, step, lambda params, hparams: upper(params[0])
        )
        return found[0]

    def second() -> list[float | None]:
        theta = leaf([0.0, 0.0])
        found = gradient(curved, theta, vector(SOLUTION), torch.sum)
        rows = [torch.autograd.grad(entry, theta, retain_graph=True)[0] for entry in found]
        return numbers(torch.stack(rows) / HESSIAN_UNIT)

    def captured() -> list[float | None]:
        c, theta = leaf([0.0, 0.0]), leaf([1.0, 1.0])
        gradient(
            lambda theta, phi: half_square(phi - theta - c), theta, vector([1.0, 1.0]), torch.sum
        )
        return numbers(c.grad)

    def batches() -> list[float | None]:
        h, theta = vector(TWO_TASKS), leaf([[1.0, 1.0], [1.0, 1.0]])
        return numbers(gradient(quadratic(h), theta, 1 / h, small_second)[1] / SMALL)

    ones, slow, saddle = [1.0, 1.0], quadratic(vector(SLOW)), vector(INDEFINITE)
    return {
        "indefinite": lambda: numbers(
            gradient(quadratic(saddle), leaf(ones), 1 / saddle, torch.sum)
        ),
        "unconverged": lambda: numbers(gradient(slow, leaf(ones), descended(), half_square)),
        "no_minimiser": lambda: numbers(
            gradient(slow, leaf(ones), vector([0.0, 0.0]), half_square)
        ),
        "zero_dim": lambda: numbers(
            gradient(quadratic(vector([2.0])[0]), leaf(1.0), vector([0.5])[0], lambda phi: phi)
        ),
        "second": second,
        "active_set": "no constraints",
        "captured": captured,
        "batches": batches,
    }


if __name__ == "__main__":
    report(
        "hypertorch",
        ["torch", "numpy"],
        {"CG": answers("CG"), "fixed_point": answers("fixed_point")},
    )
