"""F2SA: a bilevel method of first derivatives only, by a penalty whose weight grows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from hypergrad.objective import Bilevel
from hypergrad.settings import check_max_steps
from hypergrad.stochastic.directions import ONE, Directions, checked, slopes
from hypergrad.stochastic.minibatched import sampled
from hypergrad.stochastic.schedules import Schedule, at, check_schedule, growing, weight_at
from hypergrad.stochastic.state import State, begun, shifted
from hypergrad.tree import Phi, Theta, flatten, leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class F2SA:
    """Fully first-order stochastic approximation (Kwon, Kwon, Wright, Nowak 2023, Algorithm 1).

    With weight lambda, y minimises ``f + lambda g`` and phi minimises g; then
    ``d f/d theta (y) + lambda [d g/d theta (y) - d g/d theta (phi)]`` is the hypergradient up to
    ``O(1/lambda)``, without second derivatives. y is kept as ``v = lambda (phi - y)``, which is
    the adjoint ``H^-1 d f/d phi`` up to ``O(1/lambda)``.

    With noise in all gradients, their analysis lets the weight grow as ``k^(1/7)``, the step size
    of phi fall as ``k^(-4/7)`` and that of theta as ``k^(-5/7)``. A faster growth is less biased
    and noisier.

    A step takes ``lower_steps`` on phi and y, then steps theta. Draws ``2 lower_steps + 2`` lower
    batches and ``lower_steps + 1`` upper ones.

    Attributes:
        step_size: step size of phi; y takes it divided by the weight, since ``f + lambda g`` is
            that much more curved.
        upper_step_size: step size of theta.
        weight: lambda, a number or a function of the step.
        lower_steps: steps on phi and y.
    """

    step_size: Schedule
    upper_step_size: Schedule
    weight: Schedule = field(default_factory=lambda: growing(1.0, 1 / 7))
    lower_steps: int = 10

    def __post_init__(self) -> None:
        check_schedule("F2SA", self.step_size)
        check_schedule("F2SA", self.upper_step_size)
        weight_at(self.weight, 0)
        check_max_steps("F2SA's lower_steps", self.lower_steps, least=1)

    def start(self, problem: Bilevel[Theta, Phi], theta: Theta, phi: Phi) -> State[Theta, Phi]:
        """The first state: y = phi."""
        return begun(problem, theta, phi)

    def step(self, problem: Bilevel[Theta, Phi], state: State[Theta, Phi]) -> State[Theta, Phi]:
        """The state after one upper step.

        Raises:
            InputError: an objective is not :class:`Minibatched`, or can't be used.
            NotFiniteError: a direction is NaN or infinite.
        """
        upper, lower = sampled(problem.upper, "upper"), sampled(problem.lower, "lower")
        weight = weight_at(self.weight, state.step)
        size = at(self.step_size, state.step)
        uppers = upper.turns(state.step, self.lower_steps + 1)
        lowers = lower.turns(state.step, 2 * self.lower_steps + 2)
        phi, theta = state.phi, state.theta
        y = shifted(phi, state.v / weight)
        for _ in range(self.lower_steps):
            _, own = slopes(next(lowers), theta, phi, "lower")
            _, pulled = slopes(next(lowers), theta, y, "lower")
            _, direct = slopes(next(uppers), theta, y, "upper")
            phi = shifted(phi, size * own)
            y = shifted(y, size * (pulled + direct / weight))
        in_theta, _ = slopes(next(uppers), theta, y, "upper")
        there, _ = slopes(next(lowers), theta, y, "lower")
        here, _ = slopes(next(lowers), theta, phi, "lower")
        v = weight * (flatten(leaves(phi), ONE) - flatten(leaves(y), ONE))
        found = checked(
            Directions(theta=in_theta + weight * (there - here), phi=torch.zeros_like(v), v=v)
        )
        step = at(self.upper_step_size, state.step) * found.theta
        return replace(state, phi=phi, v=v).moved(theta=step)
