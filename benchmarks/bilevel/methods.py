"""The methods with the step sizes of the public benchmark, and what a step of each computes.

Counted are gradients and products of single examples: a gradient of f in both variables is one, and
so are a gradient of g, a product H v and a product J v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.bilevel.problems import Problem, whole
from hypergrad import CG, LBFGS, Bilevel, hypergradient
from hypergrad.stochastic import F2SA, SABA, SOBA, AmIGO, State, StocBiO, decaying

INNER: Final = 10  # steps on phi, terms or steps on v, as in the benchmark
Point = tuple[int, Tensor]
"""Computations so far, and theta."""


def weight(step: int) -> float:
    """F2SA's lambda there: 1, and 0.1 (k + 1)^(-1/7) more with each step k, summed as an integral.

    That is 7/60 of ``k^(6/7)``.
    """
    grown: float = float(step) ** (6 / 7)
    return 1.0 + 0.7 / 6 * grown


@dataclass(frozen=True, kw_only=True)
class Stochastic:
    """A single-loop method, made of a step size and one of theta.

    Attributes:
        make: the method.
        lower: gradients and products of the lower level in a step, in batches.
        upper: gradients of the upper level in a step, in batches.
        first: passes over (lower, upper) that the first state takes.
        steps: step sizes to choose from, over the problem's.
    """

    make: Callable[[float, float], Any]
    lower: int
    upper: int
    first: tuple[int, int] = (0, 0)
    steps: tuple[float, ...] = (0.25, 1.0)

    def path(self, problem: Problem, step: float, upper_step: float, seed: int) -> Iterator[Point]:
        """Theta after each step, with the computations until then, without an end."""
        method, levels = self.make(step, upper_step), problem.levels(seed)
        state: State[Tensor, Tensor] = method.start(levels, problem.theta, problem.phi)
        lower, upper = problem.counts
        count = self.first[0] * lower + self.first[1] * upper
        while True:
            yield count, state.theta
            state = method.step(levels, state)
            count += (self.lower + self.upper) * problem.size


@dataclass(frozen=True, kw_only=True)
class FullBatch:
    """Gradient descent on theta with implicit hypergradients of all data; lower level by L-BFGS."""

    steps: tuple[float, ...] = (1.0,)
    rtol: float = field(default=1e-4)

    def path(self, problem: Problem, step: float, upper_step: float, seed: int) -> Iterator[Point]:
        """Theta after each step, with the computations until then, without an end."""
        calls = 0
        inner = whole(*problem.lower)

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            nonlocal calls
            calls += 1  # each value is followed by its gradient
            return inner(theta, phi)

        both = Bilevel(upper=whole(*problem.upper), lower=lower)
        theta, phi, v, count = problem.theta, problem.phi, torch.zeros_like(problem.phi), 0
        examples = problem.counts
        while True:
            yield count, theta
            phi = LBFGS(rtol=self.rtol).minimise(lower, theta, phi).phi
            found = hypergradient(both, theta, phi, solver=CG(rtol=self.rtol), start=v)
            adjoint = found.certificate.adjoint
            v = adjoint.x.view_as(phi)
            count += (calls + adjoint.matvecs + 1) * examples[0] + examples[1]
            calls = 0
            theta = theta - upper_step * found.grad


def _decaying(step: float, upper: float) -> SOBA:
    return SOBA(step_size=decaying(step), upper_step_size=decaying(upper))


def _f2sa(step: float, upper: float) -> F2SA:
    return F2SA(
        step_size=decaying(step, 4 / 7),
        upper_step_size=decaying(upper, 4 / 7),
        weight=weight,
        lower_steps=INNER,
    )


def _stocbio(step: float, upper: float) -> StocBiO:
    return StocBiO(
        step_size=step,
        adjoint_step_size=step,
        upper_step_size=upper,
        lower_steps=INNER,
        terms=INNER,
    )


def _amigo(step: float, upper: float) -> AmIGO:
    return AmIGO(
        step_size=step,
        adjoint_step_size=step,
        upper_step_size=upper,
        lower_steps=INNER,
        adjoint_steps=INNER,
    )


METHODS: Final[dict[str, Stochastic | FullBatch]] = {
    "SABA": Stochastic(
        make=lambda step, upper: SABA(step_size=step, upper_step_size=upper),
        lower=3,
        upper=1,
        first=(3, 1),
    ),
    "SOBA": Stochastic(make=_decaying, lower=3, upper=1, steps=(1.0, 4.0)),
    "AmIGO": Stochastic(make=_amigo, lower=2 * INNER + 1, upper=1),
    "StocBiO": Stochastic(make=_stocbio, lower=2 * INNER + 1, upper=1),
    "F2SA": Stochastic(make=_f2sa, lower=2 * INNER + 2, upper=INNER + 1, steps=(1.0, 4.0)),
    "Implicit, all data": FullBatch(),
}
