"""Whether the library can take the problem at all: its own refusals, as findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.purity import leaving_no_trace
from hypergrad.checks.report import Finding, skip, state
from hypergrad.checks.subject import Subject
from hypergrad.errors import HypergradError, InputError
from hypergrad.guards import refuse_not_finite
from hypergrad.objective import evaluate, examine
from hypergrad.tree import (
    check_batch,
    check_same_kind,
    check_tree,
    detach,
    fresh_leaf,
    leaves,
    like,
)

INPUTS, CAPTURED, USE = "inputs", "captured tensors", "use of theta and phi"


def examine_inputs(subject: Subject) -> list[Finding]:
    """Shapes and dtypes; tensors that derivatives would miss; variables that do nothing."""
    problem = subject.plain
    try:
        values = [
            _values(subject, objective, role)
            for objective, role in ((problem.lower, "lower"), (problem.upper, "upper"))
        ]
        if values[0].shape != values[1].shape:
            raise InputError(
                f"the lower objective returned values of shape {tuple(values[0].shape)}, the upper "
                f"one {tuple(values[1].shape)}; both return one value for each task."
            )
    except HypergradError as error:
        remedy = "follow what the row 'inputs' says, so that each task gets its value"
        return [state(INPUTS, False, str(error), remedy), *_unasked((CAPTURED, USE), INPUTS)]
    subject.batch = values[0].shape
    fine = state(INPUTS, True, "trees, dtypes, devices, shapes, finite values")
    if any(value.requires_grad for value in values):
        told = _refusal(subject) or "an objective's values require grad though its arguments don't"
        remedy = (
            "add the captured tensor to theta, or detach() it if it is meant to be constant (its "
            "derivative would silently be lost)"
        )
        return [fine, state(CAPTURED, False, told, remedy), *_unasked((USE,), CAPTURED)]
    alone = state(CAPTURED, True, "none that requires grad")
    told = _refusal(subject)
    remedy = "let the lower objective use all of phi, and theta together with phi"
    if told:
        return [fine, alone, state(USE, False, told, remedy)]
    return [fine, alone, state(USE, True, "the objectives depend on phi, g on theta")]


def _values(subject: Subject, objective: Callable[[Any, Any], Tensor], role: str) -> Tensor:
    check_tree(subject.theta, "theta")
    check_tree(subject.phi, "phi")
    check_same_kind(subject.theta, subject.phi)
    with leaving_no_trace(), torch.enable_grad():
        values = objective(detach(subject.theta), detach(subject.phi))
        answer: object = values  # users' objectives are checked, not believed
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            given = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
            raise InputError(
                f"the {role} objective returned {given}; it must return a floating-point tensor "
                "with one value for each task."
            )
        check_batch(subject.phi, "phi", values.shape)
        refuse_not_finite(values.detach(), f"the {role} objective", per_task=True)
    return values


def _refusal(subject: Subject) -> str:
    """What the library itself says of the problem; nothing if it takes it."""
    problem = subject.plain
    theta = like(subject.theta, (fresh_leaf(leaf) for leaf in leaves(subject.theta)))
    phi = like(subject.phi, (fresh_leaf(leaf) for leaf in leaves(subject.phi)))
    try:
        with leaving_no_trace():
            examine(problem.lower, subject.theta, subject.phi)
            evaluate(problem.upper, theta, phi, role="upper")
    except HypergradError as error:
        return str(error)
    return ""


def _unasked(names: tuple[str, ...], cause: str) -> list[Finding]:
    return [skip(name, f"not asked: first see to {cause!r}") for name in names]
