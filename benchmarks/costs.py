"""Costs of one step, in figures that are the same on every machine."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType

import torch
from torch import Tensor

import hypergrad
from metalearn.memory import LiveBytes
from tests.metalearn.measure import Convolutions, SavedBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Costs of one run.

    Attributes:
        peak_bytes: most bytes of tensors alive at a time, weights and images included.
        saved_bytes: most bytes of distinct storages that graphs kept for backward at a time.
        convolutions: calls, forward and backward.
        forward: multiplications of forward convolutions.
        backward: number of backward convolutions.
        operations: number of operations of all kinds.
        cuda_bytes: the CUDA allocator's peak, weights and images included; None on the CPU.
    """

    peak_bytes: int
    saved_bytes: int
    convolutions: int
    forward: int
    backward: int
    operations: int
    cuda_bytes: int | None


def cost(run: Callable[[], object], present: Iterable[Tensor]) -> Cost:
    """Count, in one run for each kind of figure, so that none disturbs another.

    Args:
        run: what to count, called before; finds no gradients of `present`.
        present: tensors to count from the start: weights and images.
    """
    present = list(present)
    cuda_bytes = None
    if present[0].device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        _fresh(run, present)
        torch.cuda.synchronize()
        cuda_bytes = torch.cuda.max_memory_allocated()
    with LiveBytes(present) as live:
        _fresh(run, present)
    with SavedBytes() as saved:
        _fresh(run, present)
    with Convolutions() as done:
        _fresh(run, present)
    backward = done.multiplications["convolution_backward"]
    return Cost(
        peak_bytes=live.peak,
        saved_bytes=saved.peak,
        convolutions=sum(done.calls.values()),
        forward=done.multiplications["convolution"],
        backward=backward,
        operations=done.operations,
        cuda_bytes=cuda_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Python's part of one run, which is most of a small hypergradient's time.

    Attributes:
        frames: calls of hypergrad's own functions; torch's differ between versions.
        autograd: passes of torch's engine.
    """

    frames: int
    autograd: int


def calls(run: Callable[[], object]) -> Calls:
    """Count the calls of a run that was called before."""
    own = f"{os.path.dirname(hypergrad.__file__)}{os.sep}"
    found: Counter[str] = Counter()

    def count(frame: FrameType, event: str, called: object) -> None:
        if event == "call":
            found["frames"] += frame.f_code.co_filename.startswith(own)
        elif event == "c_call":
            found["autograd"] += getattr(called, "__name__", "") == "run_backward"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return Calls(frames=found["frames"], autograd=found["autograd"])


def _fresh(run: Callable[[], object], present: list[Tensor]) -> None:
    for tensor in present:
        tensor.grad = None
    run()
