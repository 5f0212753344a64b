"""Overrides: a preset's method with the numbers that a user gives instead of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypergrad import CG, GradientDescent, Implicit, LowerSolver, TorchOptimiser
from metalearn.config.choices import CAME_LATER, AdjointName
from metalearn.errors import ConfigError
from metalearn.methods.heads import LinearHeads
from metalearn.methods.lower import Lower, direct, steps_of_cg
from metalearn.methods.method import Method
from metalearn.methods.networks import ImplicitMaml, Maml, Reptile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """K, the step size and N of a method; None where it has none.

    Attributes:
        K: lower steps.
        step_size: gradient descent's.
        N: conjugate-gradient steps of an adjoint that takes a fixed number of them.
        test_K: lower steps in testing.
        test_step_size: gradient descent's in testing.
    """

    K: int | None = None
    step_size: float | None = None
    N: int | None = None
    test_K: int | None = None
    test_step_size: float | None = None


def numbers(method: Method) -> Numbers:
    """The numbers of this method."""
    lower = _lower(method)
    if lower is None:
        return Numbers()
    solver = lower.adjoint.solver if isinstance(lower.adjoint, Implicit) else None
    return Numbers(
        K=_steps(lower.by),
        step_size=_step_size(lower.by),
        N=solver.max_steps if isinstance(solver, CG) and solver.rtol == 0 else None,
        test_K=_steps(lower.testing),
        test_step_size=_step_size(lower.testing),
    )


def passes(method: Method) -> int | None:
    """Forward and backward passes of the backbone in an upper step: how often each task is seen.

    Methods that solve on features take one. Those that adapt the whole network take one for each
    lower step, one for each conjugate-gradient step of the adjoint, and one for the upper loss if
    there is one. None if a number of steps is not fixed.
    """
    if not isinstance(method, Maml | ImplicitMaml | Reptile):
        return 1
    found = numbers(method)
    if found.K is None or (isinstance(method, ImplicitMaml) and found.N is None):
        return None
    return found.K + (found.N or 0) + (0 if isinstance(method, Reptile) else 1)


def adjusted(
    method: Method,
    *,
    lower_steps: int | None = None,
    test_lower_steps: int | None = None,
    step_size: float | None = None,
    adjoint: AdjointName | None = None,
    adjoint_steps: int | None = None,
    l2: float | None = None,
    wide_heads: bool = False,
) -> Method:
    """The method with these numbers in place of its own; None keeps its own.

    A step size is that of training and of testing alike. Where a method is tested after as many
    steps as it is trained with, it still is.

    Raises:
        ConfigError: the method has no such number.
    """
    if l2 is not None:
        if not hasattr(method, "l2"):
            raise _refusal(method, "l2", l2)
        method = _replaced(method, l2=l2)
    if wide_heads:
        if not isinstance(method, LinearHeads):
            raise ConfigError(
                f"wide_heads was given with {type(method).__name__}, which has no softmax head of "
                "its own: leave it out, or choose memory-reduced, itd-bio or anil."
            )
        method = dataclasses.replace(method, wide_heads=True)
    if lower_steps is not None or step_size is not None:
        method = _with_steps(method, lower_steps, step_size)
    if test_lower_steps is not None:
        method = tested_by(method, lower_steps=test_lower_steps)
    if adjoint is not None:
        method = _differentiated_by(method, adjoint)
    if adjoint_steps is not None:
        if numbers(method).N is None:
            raise _refusal(method, "adjoint_steps", adjoint_steps)
        method = _with_lower(method, adjoint=steps_of_cg(adjoint_steps))
    return method


def tested_by(method: Method, *, lower_steps: int) -> Method:
    """The method with this number of lower steps in testing.

    Raises:
        ConfigError: the method takes no lower steps.
    """
    lower = _lower(method)
    test = None if lower is None else lower.testing
    if isinstance(test, GradientDescent | TorchOptimiser):
        test = dataclasses.replace(test, max_steps=lower_steps)
    else:
        raise _refusal(method, "lower_steps", lower_steps)
    return _with_lower(method, test=test)


def _with_steps(method: Method, steps: int | None, step_size: float | None) -> Method:
    lower = _lower(method)
    by, test = (None, None) if lower is None else (lower.by, lower.test)
    if isinstance(by, GradientDescent):
        by = by if steps is None else dataclasses.replace(by, max_steps=steps)
        by = by if step_size is None else dataclasses.replace(by, step_size=step_size)
    elif isinstance(by, TorchOptimiser) and steps is not None and step_size is None:
        by = dataclasses.replace(by, max_steps=steps)
    else:
        name = "lower_steps" if steps is not None else "step_size"
        raise _refusal(method, name, steps if steps is not None else step_size)
    if isinstance(test, GradientDescent) and step_size is not None:
        test = dataclasses.replace(test, step_size=step_size)
    return _with_lower(method, by=by, test=test)


def _differentiated_by(method: Method, name: AdjointName) -> Method:
    if not isinstance(method, LinearHeads) or not isinstance(method.lower.adjoint, Implicit):
        raise ConfigError(
            f"adjoint {name} was given with a method that solves no adjoint system of a softmax "
            "head: give method memory-reduced or memory-reduced-exact, or leave it out."
        )
    return _with_lower(method, adjoint=steps_of_cg() if name == "cg" else direct())


def describe(value: object) -> str:
    """A method, or what it is made of, as text that is the same in every process.

    What came later is named where it is not as it was: what older runs recorded still holds.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        each = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        usual = CAME_LATER.items()
        parts = (f"{name}={describe(own)}" for name, own in each if (name, own) not in usual)
        return f"{type(value).__name__}({', '.join(parts)})"
    return str(getattr(value, "__name__", value))


def _lower(method: Method) -> Lower | None:
    """The method's lower level, None if it has none that can be set."""
    return getattr(method, "lower", None)


def _with_lower(method: Method, **changes: object) -> Method:
    changed: Method = _replaced(method, lower=_replaced(_lower(method), **changes))
    return changed


def _replaced(value: Any, **changes: object) -> Any:
    """`dataclasses.replace`, for a method of which only the Protocol is known."""
    return dataclasses.replace(value, **changes)


def _steps(by: LowerSolver) -> int | None:
    return by.max_steps if isinstance(by, GradientDescent | TorchOptimiser) else None


def _step_size(by: LowerSolver) -> float | None:
    return by.step_size if isinstance(by, GradientDescent) else None


def _refusal(method: Method, name: str, value: object) -> ConfigError:
    return ConfigError(
        f"{name} {value} was given with {type(method).__name__}, which has no such number here "
        "(it has none at all, or solves until it is done): leave it out, or choose another method."
    )
