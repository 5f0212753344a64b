"""This library: ``attach`` as it stands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import hypergrad
from benchmarks.behaviour.asked import Answer, report
from benchmarks.behaviour.problems import KINK
from benchmarks.behaviour.torch_problems import (
    Attach,
    Lower,
    attached_answers,
    half_square,
    leaf,
    numbers,
    quadratic_of_tasks,
)
from hypergrad.conditions import Constrained, NonNegative


def attacher(**options: Any) -> Attach:
    """``attach`` with options."""

    def attach(lower: Lower, theta: Tensor, phi: Tensor) -> Tensor:
        solved: Tensor = hypergrad.attach(lower, theta, phi, **options)
        return solved

    return attach


def answers(**options: Any) -> dict[str, Answer | str]:
    """The answers of `attach`; the two tasks come as a batch, one value for each."""
    held: dict[str, Answer | str] = {"active_set": lambda: within(**options)}
    return attached_answers(attacher(**options), batched=quadratic_of_tasks) | held


def within(**options: Any) -> list[float | None]:
    """The solution on the nonnegative numbers, given as a condition."""
    theta = leaf(KINK)
    nearest: Constrained[Tensor, Tensor] = Constrained(
        lambda theta, phi: half_square(phi - theta), within=NonNegative()
    )
    phi = hypergrad.attach(nearest, theta, theta.detach().clamp(min=0.0), **options)
    return numbers(torch.autograd.grad(phi.sum(), theta)[0])


if __name__ == "__main__":
    report(
        "hypergrad",
        ["torch", "numpy"],
        {"attach": answers(), "attach, CG()": answers(solver=hypergrad.CG())},
    )
