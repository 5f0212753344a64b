"""Step sizes and weights that depend on the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from hypergrad.settings import check_power, check_step_size, check_weight

Schedule: TypeAlias = float | Callable[[int], float]
"""A step size or a weight: one number, or a function of the step, counted from 0."""


@dataclass(frozen=True, slots=True)
class _Power:
    """A power of the step, counted from 1; a value, so that methods can be compared and pickled."""

    rate: float
    power: float
    falls: bool

    def __call__(self, step: int) -> float:
        growth: float = float(step + 1) ** self.power
        return self.rate / growth if self.falls else self.rate * growth


def decaying(rate: float, power: float = 0.5) -> Callable[[int], float]:
    """``rate / (step + 1) ** power``.

    Raises:
        InputError: a rate that is not positive, or a power outside [0, 1].
    """
    _check("decaying", rate, power)
    return _Power(rate, power, falls=True)


def growing(rate: float, power: float = 1 / 7) -> Callable[[int], float]:
    """``rate * (step + 1) ** power``.

    Raises:
        InputError: a rate that is not positive, or a power outside [0, 1].
    """
    _check("growing", rate, power)
    return _Power(rate, power, falls=False)


def _check(name: str, rate: float, power: float) -> None:
    check_step_size(name, rate, limit="a rate")
    check_power(name, power)


def check_schedule(method: str, schedule: Schedule) -> None:
    """Raise for a step size that is neither a function nor a positive number.

    Raises:
        InputError: naming the method.
    """
    if not callable(schedule):
        check_step_size(method, schedule, limit="or a function of the step")


def at(schedule: Schedule, step: int) -> float:
    """The step size of one step.

    Raises:
        InputError: the function returned no positive finite number.
    """
    if not callable(schedule):
        return schedule
    size = schedule(step)
    check_step_size(f"the schedule at step {step}", size, limit="below 2/L")
    return size


def weight_at(weight: Schedule, step: int) -> float:
    """The weight of one step.

    Raises:
        InputError: the weight is not positive and finite.
    """
    value = weight(step) if callable(weight) else weight
    check_weight(value, step)
    return value
