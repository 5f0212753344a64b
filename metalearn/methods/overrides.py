"""A method with other numbers: what the command line may change about a preset."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

from hypergrad import CG, GradientDescent, Implicit, LowerSolver, TorchOptimiser
from metalearn.config.choices import CAME_LATER, AdjointName
from metalearn.errors import ConfigError
from metalearn.methods.heads import LinearHeads, RidgeHeads
from metalearn.methods.lower import Lower, direct, steps_of_cg
from metalearn.methods.method import Method
from metalearn.methods.networks import ImplicitMaml, Maml, Reptile

_WithLower: TypeAlias = LinearHeads | ImplicitMaml
_WithSteps: TypeAlias = Maml | Reptile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """K, the step size and N of a method; None where it has none.

    Attributes:
        K: lower steps.
        step_size: of gradient descent.
        N: conjugate-gradient steps of an adjoint that takes a fixed number of them.
        test_K: lower steps of testing.
        test_step_size: of gradient descent in testing.
    """

    K: int | None = None
    step_size: float | None = None
    N: int | None = None
    test_K: int | None = None
    test_step_size: float | None = None


def numbers(method: Method) -> Numbers:
    """Those of this method."""
    by, adjoint = _solver(method), None
    if isinstance(method, _WithLower):
        adjoint = method.lower.adjoint
    N = None
    if isinstance(adjoint, Implicit) and isinstance(adjoint.solver, CG) and not adjoint.solver.rtol:
        N = adjoint.solver.max_steps
    test = by
    if isinstance(method, _WithLower | _WithSteps):
        test = method.test or by
    return Numbers(
        K=_steps(by),
        step_size=_step_size(by),
        N=N,
        test_K=_steps(test),
        test_step_size=_step_size(test),
    )


def _steps(by: LowerSolver | None) -> int | None:
    return by.steps if isinstance(by, GradientDescent | TorchOptimiser) else None


def _step_size(by: LowerSolver | None) -> float | None:
    return by.step_size if isinstance(by, GradientDescent) else None


def adjusted(
    method: Method,
    *,
    lower_steps: int | None = None,
    test_lower_steps: int | None = None,
    step_size: float | None = None,
    adjoint: AdjointName | None = None,
    adjoint_steps: int | None = None,
    l2: float | None = None,
    compiled: bool = False,
) -> Method:
    """The method with these numbers in place of its own; None keeps its own.

    A step size is that of training and of testing alike. Where a method is tested after as many
    steps as it is trained with, it still is.

    `compiled` makes one program of the steps of each level, see `hypergrad.CG`.

    Raises:
        ConfigError: it has no such number, or nothing that can be compiled.
    """
    if l2 is not None:
        if not isinstance(method, LinearHeads | RidgeHeads):
            raise _refusal(method, "l2", l2)
        method = dataclasses.replace(method, l2=l2)
    if lower_steps is not None or step_size is not None:
        method = _with_solver(method, _other_steps(method, lower_steps, step_size))
    if step_size is not None and isinstance(method, _WithLower | _WithSteps):
        test = method.test
        if isinstance(test, GradientDescent):
            test = dataclasses.replace(test, step_size=step_size)
            method = dataclasses.replace(method, test=test)
    if test_lower_steps is not None:
        method = tested_by(method, lower_steps=test_lower_steps)
    if adjoint is not None:
        method = _differentiated_by(method, adjoint)
    if adjoint_steps is not None:
        if numbers(method).N is None or not isinstance(method, _WithLower):
            raise _refusal(method, "adjoint_steps", adjoint_steps)
        lower = Lower(by=method.lower.by, adjoint=steps_of_cg(adjoint_steps))
        method = dataclasses.replace(method, lower=lower)
    return _with_programs(method) if compiled else method


def _with_programs(method: Method) -> Method:
    if isinstance(method, LinearHeads) and isinstance(method.lower.by, GradientDescent):
        by, adjoint = dataclasses.replace(method.lower.by, compiled=True), method.lower.adjoint
        if isinstance(adjoint, Implicit) and isinstance(adjoint.solver, CG):
            solver = dataclasses.replace(adjoint.solver, compiled=True)
            adjoint = dataclasses.replace(adjoint, solver=solver)
        if isinstance(adjoint, Implicit):
            return dataclasses.replace(method, lower=Lower(by=by, adjoint=adjoint))
    raise ConfigError(
        f"compiled was given with {type(method).__name__}, here without what it is for: a number "
        "of gradient steps on heads, and an implicit adjoint. Give method memory-reduced, or "
        "leave it out."
    )


def _differentiated_by(method: Method, name: AdjointName) -> Method:
    if not isinstance(method, LinearHeads) or not isinstance(method.lower.adjoint, Implicit):
        raise ConfigError(
            f"adjoint {name} was given with a method that solves no adjoint system of a softmax "
            "head: give method memory-reduced or memory-reduced-exact, or leave it out."
        )
    adjoint = steps_of_cg() if name == "cg" else direct()
    return dataclasses.replace(method, lower=Lower(by=method.lower.by, adjoint=adjoint))


def tested_by(method: Method, *, lower_steps: int) -> Method:
    """The method with this number of lower steps in testing, which are not compiled.

    Raises:
        ConfigError: it takes none.
    """
    if not isinstance(method, _WithLower | _WithSteps):
        raise _refusal(method, "lower_steps", lower_steps)
    used = method.test or _solver(method)
    if not isinstance(used, GradientDescent | TorchOptimiser):
        raise _refusal(method, "lower_steps", lower_steps)
    if isinstance(used, GradientDescent):
        used = dataclasses.replace(used, compiled=False)  # each number would be another program
    return dataclasses.replace(method, test=dataclasses.replace(used, steps=lower_steps))


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


def _solver(method: Method) -> LowerSolver | None:
    if isinstance(method, _WithLower):
        return method.lower.by
    return method.by if isinstance(method, _WithSteps) else None


def _with_solver(method: Method, by: LowerSolver) -> Method:
    if isinstance(method, _WithLower):
        lower = Lower(by=by, adjoint=method.lower.adjoint)
        return dataclasses.replace(method, lower=lower)
    assert isinstance(method, _WithSteps)  # the only others with a solver
    return dataclasses.replace(method, by=by)


def _other_steps(method: Method, steps: int | None, step_size: float | None) -> LowerSolver:
    by = _solver(method)
    if isinstance(by, GradientDescent):
        by = by if steps is None else dataclasses.replace(by, steps=steps)
        return by if step_size is None else dataclasses.replace(by, step_size=step_size)
    if isinstance(by, TorchOptimiser) and steps is not None and step_size is None:
        return dataclasses.replace(by, steps=steps)
    name = "lower_steps" if steps is not None else "step_size"
    raise _refusal(method, name, steps if steps is not None else step_size)


def _refusal(method: Method, name: str, value: object) -> ConfigError:
    return ConfigError(
        f"{name} {value} was given with {type(method).__name__}, which has no such number here "
        "(it has none at all, or solves until it is done): leave it out, or choose another method."
    )
