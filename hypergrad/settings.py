"""Checks of the settings that solvers share: numbers of steps, step sizes and tolerances."""

from __future__ import annotations

from math import inf
from numbers import Integral, Real
from typing import TypeGuard

from torch import Tensor

from hypergrad.errors import InputError


def check_step_size(solver: str, step_size: object, *, limit: str) -> None:
    """Raise unless the step size is one positive finite number.

    Args:
        solver: its name.
        step_size: value that the caller gave, of any type.
        limit: largest allowed value, for the message.

    Raises:
        InputError: naming the solver and ``step_size``.
    """
    if not _is_real(step_size) or not 0 < step_size < inf:
        raise InputError(
            f"{solver} got step_size={_shown(step_size)}; it needs one finite number, "
            f"step_size > 0 ({limit})."
        )


def check_weight(weight: object, step: int) -> None:
    """Raise unless the weight of a step is one positive finite number.

    Raises:
        InputError: naming the step.
    """
    if not _is_real(weight) or not 0 < weight < inf:
        raise InputError(
            f"weight is {_shown(weight)} at step {step}; give a positive finite number, or a "
            "function of the step that returns one, such as growing(1.0)."
        )


def check_power(schedule: str, power: object) -> None:
    """Raise unless the power of a schedule is a number of [0, 1].

    Raises:
        InputError: naming the schedule.
    """
    if not _is_real(power) or not 0 <= power <= 1:
        raise InputError(f"{schedule} got power={_shown(power)}; it must be in [0, 1].")


def check_max_steps(solver: str, max_steps: object, *, least: int, name: str = "max_steps") -> None:
    """Raise unless the number of steps is a whole number of at least ``least``.

    Raises:
        InputError: naming the solver and the setting.
    """
    if not _is_whole(max_steps) or max_steps < least:
        raise InputError(
            f"{solver} got {name}={_shown(max_steps)}; it needs a whole number, {name} >= {least}."
        )


def check_tolerances(solver: str, rtol: object, atol: object) -> None:
    """Raise unless ``0 <= rtol < 1`` and ``0 <= atol``, both finite.

    Raises:
        InputError: naming the solver and both tolerances.
    """
    if not (_is_real(rtol) and 0 <= rtol < 1 and _is_real(atol) and 0 <= atol < inf):
        raise InputError(
            f"{solver} got rtol={_shown(rtol)}, atol={_shown(atol)}; rtol must be in [0, 1), "
            "atol >= 0 and finite."
        )


def check_damping(solver: str, damping: object) -> None:
    """Raise unless the damping is "auto", or a finite number of at least 0.

    Raises:
        InputError: naming the solver and what was given.
    """
    if damping != "auto" and not (_is_real(damping) and 0 <= damping < inf):
        raise InputError(
            f'{solver} got damping={_shown(damping)}; it must be at least 0 and finite, or "auto".'
        )


def check_function(condition: str, function: object, returns: str) -> None:
    """Raise unless a condition was given a function.

    Raises:
        InputError: naming the condition and what was given.
    """
    if not callable(function):
        raise InputError(
            f"{condition} got a {type(function).__name__}; give a function of (theta, phi) that "
            f"returns {returns}."
        )


def check_tasks(condition: str, tasks: object) -> None:
    """Raise unless it is a number of dimensions.

    Raises:
        InputError: naming the condition and what was given.
    """
    if not _is_whole(tasks) or tasks < 0:
        raise InputError(
            f"{condition} got tasks={_shown(tasks)}; it needs the number of leading dimensions of "
            "phi that are independent tasks, a whole number >= 0."
        )


def _is_whole(value: object) -> TypeGuard[int]:
    """True for one whole number that is no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> TypeGuard[float]:
    """True for one number; bools and tensors are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A number or word as it is, anything else by its kind."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, Real | str) else f"a {type(value).__name__}"
