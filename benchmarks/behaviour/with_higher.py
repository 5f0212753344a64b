"""higher: unrolled SGD of step size 1, as many steps as the case's, else 200."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import report
from benchmarks.behaviour.torch_problems import Held, Lower, unrolled_answers

higher: Any = importlib.import_module("higher")


def unroll(lower: Lower, theta: Tensor, start: Tensor, steps: int, rate: float) -> Tensor:
    """The last iterate of SGD, its graph kept."""
    module = Held(lower, start)
    optimiser = torch.optim.SGD(module.parameters(), lr=rate)
    with higher.innerloop_ctx(module, optimiser) as (model, unrolled):
        for _ in range(steps):
            unrolled.step(model(theta))
        (phi,) = model.parameters()
    found: Tensor = phi
    return found


if __name__ == "__main__":
    report("higher", ["higher", "torch", "numpy"], {"innerloop_ctx": unrolled_answers(unroll)})
