"""This library: ``attach`` as it stands."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import hypergrad
from benchmarks.behaviour.asked import Answer, report
from benchmarks.behaviour.torch_problems import Attach, Lower, attached_answers, quadratic_of_tasks


def attacher(**options: Any) -> Attach:
    """``attach`` with options."""

    def attach(lower: Lower, theta: Tensor, phi: Tensor) -> Tensor:
        solved: Tensor = hypergrad.attach(lower, theta, phi, **options)
        return solved

    return attach


def answers(**options: Any) -> dict[str, Answer | str]:
    """The answers of `attach`; the two tasks come as a batch, one value for each."""
    none: dict[str, Answer | str] = {"active_set": "no constraints"}
    return attached_answers(attacher(**options), batched=quadratic_of_tasks) | none


if __name__ == "__main__":
    report(
        "hypergrad",
        ["torch", "numpy"],
        {"attach": answers(), "attach, CG()": answers(solver=hypergrad.CG())},
    )
