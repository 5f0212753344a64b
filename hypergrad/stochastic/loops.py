"""Methods with short inner loops on fresh batches: stocBiO and AmIGO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hypergrad.implicit.linearise import Linearisation
from hypergrad.objective import Bilevel, Objective
from hypergrad.settings import check_max_steps
from hypergrad.stochastic.directions import ONE, Directions, checked, slopes
from hypergrad.stochastic.minibatched import sampled
from hypergrad.stochastic.schedules import Schedule, at, check_schedule
from hypergrad.stochastic.state import State, begun, shifted
from hypergrad.tree import Phi, Theta, flatten


@dataclass(frozen=True, slots=True, kw_only=True)
class StocBiO:
    """Stochastic bilevel optimiser (Ji, Yang, Liang 2021, Algorithms 2 and 3).

    A step takes ``lower_steps`` of stochastic gradient descent on phi from where the last ended;
    sums a Neumann series for v from zero, ``v = s sum_{q=0}^{Q} (I - s H_q) ... (I - s H_1) c``,
    with an independent batch for each factor, which makes it an unbiased estimate of the truncated
    series; then steps theta. Takes ``lower_steps + 1`` lower batches and one upper batch by turn,
    and draws ``terms`` lower ones.

    Attributes:
        step_size: step size of phi.
        adjoint_step_size: s, below 2/L.
        upper_step_size: step size of theta.
        lower_steps: steps on phi.
        terms: Q, factors of the series.
    """

    step_size: Schedule
    adjoint_step_size: Schedule
    upper_step_size: Schedule
    lower_steps: int = 10
    terms: int = 10

    def __post_init__(self) -> None:
        for schedule in (self.step_size, self.adjoint_step_size, self.upper_step_size):
            check_schedule("StocBiO", schedule)
        check_max_steps("StocBiO's lower_steps", self.lower_steps, least=1)
        check_max_steps("StocBiO's terms", self.terms, least=0)

    def start(self, problem: Bilevel[Theta, Phi], theta: Theta, phi: Phi) -> State[Theta, Phi]:
        """The first state: v = 0."""
        return begun(problem, theta, phi)

    def step(self, problem: Bilevel[Theta, Phi], state: State[Theta, Phi]) -> State[Theta, Phi]:
        """The state after one upper step.

        Raises:
            InputError: an objective is not :class:`Minibatched`, or can't be used.
            NotFiniteError: a direction is NaN or infinite.
        """
        lower = sampled(problem.lower, "lower")
        batches = lower.turns(state.step, self.lower_steps + 1)
        phi = _descended(
            batches, self.lower_steps, at(self.step_size, state.step), state.theta, state.phi
        )
        state = replace(state, phi=phi)
        upper = sampled(problem.upper, "upper").batch(state.step)
        in_theta, c = slopes(upper, state.theta, phi, "upper")
        size = at(self.adjoint_step_size, state.step)
        term = total = c
        for factor in range(self.terms):
            batch = lower.drawn(state.step * self.terms + factor)
            term = term - size * _product(batch, state.theta, phi, term)
            total = total + term
        return _upper_step(
            state, next(batches), in_theta, size * total, at(self.upper_step_size, state.step)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AmIGO:
    """Amortised implicit gradient optimisation (Arbel and Mairal 2022, Algorithm 1).

    A step takes ``lower_steps`` of stochastic gradient descent on phi and ``adjoint_steps`` on
    ``v'H v/2 - c'v``, both from where the last step ended, then steps theta. Draws
    ``lower_steps + adjoint_steps + 1`` lower batches and one upper batch.

    Attributes:
        step_size: step size of phi.
        adjoint_step_size: step size of v.
        upper_step_size: step size of theta.
        lower_steps: steps on phi.
        adjoint_steps: steps on v.
    """

    step_size: Schedule
    adjoint_step_size: Schedule
    upper_step_size: Schedule
    lower_steps: int = 10
    adjoint_steps: int = 10

    def __post_init__(self) -> None:
        for schedule in (self.step_size, self.adjoint_step_size, self.upper_step_size):
            check_schedule("AmIGO", schedule)
        check_max_steps("AmIGO's lower_steps", self.lower_steps, least=1)
        check_max_steps("AmIGO's adjoint_steps", self.adjoint_steps, least=1)

    def start(self, problem: Bilevel[Theta, Phi], theta: Theta, phi: Phi) -> State[Theta, Phi]:
        """The first state: v = 0."""
        return begun(problem, theta, phi)

    def step(self, problem: Bilevel[Theta, Phi], state: State[Theta, Phi]) -> State[Theta, Phi]:
        """The state after one upper step.

        Raises:
            InputError: an objective is not :class:`Minibatched`, or can't be used.
            NotFiniteError: a direction is NaN or infinite.
        """
        batches = sampled(problem.lower, "lower").turns(
            state.step, self.lower_steps + self.adjoint_steps + 1
        )
        phi = _descended(
            batches, self.lower_steps, at(self.step_size, state.step), state.theta, state.phi
        )
        state = replace(state, phi=phi)
        upper = sampled(problem.upper, "upper").batch(state.step)
        in_theta, c = slopes(upper, state.theta, phi, "upper")
        size, v = at(self.adjoint_step_size, state.step), state.v
        for _ in range(self.adjoint_steps):
            v = v - size * (_product(next(batches), state.theta, phi, v) - c)
        return _upper_step(state, next(batches), in_theta, v, at(self.upper_step_size, state.step))


def _descended(
    batches: Iterator[Objective[Theta, Phi]], steps: int, size: float, theta: Theta, phi: Phi
) -> Phi:
    """Phi after so many steps of stochastic gradient descent."""
    for _ in range(steps):
        at_phi = Linearisation(next(batches), theta, phi, twice=False)
        phi = shifted(phi, size * at_phi.gradient)
    return phi


def _product(lower: Objective[Theta, Phi], theta: Theta, phi: Phi, v: Tensor) -> Tensor:
    return Linearisation(lower, theta, phi).product(v)


def _upper_step(
    state: State[Theta, Phi],
    lower: Objective[Theta, Phi],
    in_theta: Tensor,
    v: Tensor,
    size: float,
) -> State[Theta, Phi]:
    """The state with theta moved along ``d f/d theta - J v``, and this v."""
    cross = flatten(Linearisation(lower, state.theta, state.phi).cross(v), ONE)
    found = checked(Directions(theta=in_theta - cross, phi=torch.zeros_like(v), v=v))
    return replace(state, v=v).moved(theta=size * found.theta)
