"""Growth of time and memory with p, q, tasks, K and N: exponents, fitted in log and log.

A hypergradient of values alone, whose pieces have p or q numbers and nothing p times q. Each
dimension grows over a factor of 16 with the others fixed, the sizes taking turns. The exponent of
time is the slope at the larger half of the sizes, where the work outweighs the calls; that of
memory is of peak live bytes. What is expected: time 1 in q, tasks, K and N; memory 1 in q and tasks
and 0 in K and N; at most 1 in all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.provenance import provenance
from benchmarks.timing import interleaved
from hypergrad import CG, GradientDescent, Implicit, argmin
from metalearn.memory import LiveBytes

FACTORS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of one problem: p numbers in theta, q in phi, tasks, K lower steps, N steps of CG."""

    p: int = 20_000
    q: int = 20_000
    tasks: int = 2
    K: int = 4
    N: int = 4

    def grown(self, name: str, factor: int) -> Sizes:
        """One of them larger."""
        own = {"p": self.p, "q": self.q, "tasks": self.tasks, "K": self.K, "N": self.N}
        return replace(self, **{name: own[name] * factor})


def run_of(sizes: Sizes) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """One hypergradient, and the tensors that were there before."""
    theta = torch.linspace(-1, 1, sizes.p, requires_grad=True)
    start = torch.linspace(0.5, 2, sizes.tasks * sizes.q).reshape(sizes.tasks, sizes.q)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        pull = theta.sin().mean() * phi.sum(-1)
        return phi.square().sum(-1) / 2 + phi.cos().sum(-1) / 2 - pull

    def run() -> Tensor:
        phi = argmin(
            lower,
            theta,
            start,
            by=GradientDescent(max_steps=sizes.K, step_size=0.2),
            adjoint=Implicit(CG(rtol=0.0, max_steps=sizes.N)),
            watch=lambda certificate: None,
        )
        (gradient,) = torch.autograd.grad(phi.square().sum() / 2, theta)
        return gradient

    return run, [theta, start]


@pytest.mark.parametrize("name", ["p", "q", "tasks", "K", "N"])
def test_exponent(benchmark: BenchmarkFixture, name: str) -> None:
    runs = [run_of(Sizes().grown(name, factor)) for factor in FACTORS]
    peaks = []
    for run, present in runs:
        run()
        with LiveBytes(present) as live:
            run()
        peaks.append(live.peak)
    times = [min(own) for own in interleaved([run for run, _ in runs], rounds=5)]
    benchmark(runs[0][0])
    memory = exponent(peaks)
    benchmark.extra_info |= provenance() | {
        "exponent_of_time": exponent(times[2:]),
        "exponent_of_memory": memory,
        "peak_bytes": peaks,
        "seconds": times,
    }
    if name in ("K", "N"):
        assert len(set(peaks)) == 1  # not a byte more
    else:
        assert peaks == sorted(peaks)
        # affine with a positive constant: below 1 in log and log
        assert memory <= 1


def exponent(values: list[float] | list[int]) -> float:
    """The slope of log values against the log of factors of 2."""
    logs = [math.log2(value) for value in values]
    slope, _ = statistics.linear_regression(range(len(logs)), logs)
    return slope
