"""torchdeq: the fixed point of a descent step, by its defaults and with ``ift=True``."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import report
from benchmarks.behaviour.torch_problems import ENOUGH, Lower, Unroll, unrolled_answers

torchdeq: Any = importlib.import_module("torchdeq")


def solver(**options: Any) -> Unroll:
    """The fixed point at which its solver ends."""

    def solve(lower: Lower, theta: Tensor, start: Tensor, steps: int, rate: float) -> Tensor:
        def step(phi: Tensor) -> Tensor:
            with torch.enable_grad():  # the solver looks for the point under no_grad
                point = phi if phi.requires_grad else phi.detach().requires_grad_()
                (slope,) = torch.autograd.grad(lower(theta, point), point, create_graph=True)
                return phi - rate * slope

        limit = {} if steps == ENOUGH else {"f_max_iter": steps}  # its default is 40
        found, _ = torchdeq.get_deq(**options, **limit)(step, start)
        phi: Tensor = found[-1]
        return phi

    return solve


if __name__ == "__main__":
    report(
        "torchdeq",
        ["torchdeq", "torch", "numpy"],
        {
            "get_deq(ift=True)": unrolled_answers(solver(ift=True)),
            "get_deq()": unrolled_answers(solver()),
        },
    )
