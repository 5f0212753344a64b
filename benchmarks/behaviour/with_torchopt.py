"""torchopt: ``custom_root`` with its default solver, which squares H, and with ``solve_cg``."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import Answer, report
from benchmarks.behaviour.torch_problems import Attach, Lower, attached_answers

torchopt: Any = importlib.import_module("torchopt")


def attacher(**options: Any) -> Attach:
    """phi as the root of the lower objective's gradient."""

    def attach(lower: Lower, theta: Tensor, phi: Tensor) -> Tensor:
        def optimality(phi: Tensor, theta: Tensor) -> Tensor:
            gradient: Tensor = torch.func.grad(lower, argnums=1)(theta, phi)
            return gradient

        root = torchopt.diff.implicit.custom_root(optimality, argnums=1, **options)
        solved: Tensor = root(lambda phi, theta: phi.clone())(phi, theta)
        return solved

    return attach


if __name__ == "__main__":
    none: dict[str, Answer | str] = {"active_set": "no constraints"}
    cg = torchopt.linear_solve.solve_cg()
    report(
        "torchopt",
        ["torchopt", "torch", "numpy"],
        {
            "custom_root": attached_answers(attacher()) | none,
            "custom_root, solve_cg": attached_answers(attacher(solve=cg)) | none,
        },
    )
