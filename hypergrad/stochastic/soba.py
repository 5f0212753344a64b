"""SOBA: theta, phi and v each take one step of stochastic gradient descent, at the same point."""

from __future__ import annotations

from dataclasses import dataclass

from hypergrad.objective import Bilevel
from hypergrad.stochastic.directions import Directions, checked, lower_parts, slopes
from hypergrad.stochastic.minibatched import sampled
from hypergrad.stochastic.schedules import Schedule, at, check_schedule
from hypergrad.stochastic.state import State, begun
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True, slots=True, kw_only=True)
class SOBA:
    """Stochastic bilevel algorithm (Dagreou, Ablin, Vaiter, Moreau 2022, Algorithm 1 with 2).

    A step draws one batch of each level and moves all three variables along their directions there,
    each of which is an unbiased estimate of that on all data. With both step sizes ``decaying`` by
    the power 1/2, the mean squared hypergradient over T steps falls as ``log(T) / sqrt(T)`` (their
    Theorem 1); with constant ones it ends at a floor.

    Attributes:
        step_size: step size of phi and v.
        upper_step_size: step size of theta.
    """

    step_size: Schedule
    upper_step_size: Schedule

    def __post_init__(self) -> None:
        check_schedule("SOBA", self.step_size)
        check_schedule("SOBA", self.upper_step_size)

    def start(self, problem: Bilevel[Theta, Phi], theta: Theta, phi: Phi) -> State[Theta, Phi]:
        """The first state: v = 0."""
        return begun(problem, theta, phi)

    def step(self, problem: Bilevel[Theta, Phi], state: State[Theta, Phi]) -> State[Theta, Phi]:
        """The state after one batch of each level.

        Raises:
            InputError: an objective is not :class:`Minibatched`, or can't be used.
            NotFiniteError: a direction is NaN or infinite.
        """
        found = directions(problem, state)
        size, upper_size = at(self.step_size, state.step), at(self.upper_step_size, state.step)
        return state.moved(theta=upper_size * found.theta, phi=size * found.phi, v=size * found.v)


def directions(problem: Bilevel[Theta, Phi], state: State[Theta, Phi]) -> Directions:
    """All three directions on the batches that are the turn of the state's step."""
    upper = sampled(problem.upper, "upper").batch(state.step)
    lower = lower_parts(
        sampled(problem.lower, "lower").batch(state.step), state.theta, state.phi, state.v
    )
    in_theta, in_phi = slopes(upper, state.theta, state.phi, "upper")
    return checked(
        Directions(theta=in_theta - lower.cross, phi=lower.slope, v=lower.product - in_phi)
    )
