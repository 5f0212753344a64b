"""Refusals by the library, as findings: the problem may be one that it cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.derivatives import USE as PHI
from hypergrad.checks.findings import Finding, skip, state
from hypergrad.checks.problem import Problem
from hypergrad.checks.purity import leaving_no_trace
from hypergrad.errors import HypergradError, InputError
from hypergrad.guards import require_finite
from hypergrad.objective import evaluate, examine
from hypergrad.tree import (
    check_batch,
    check_same_kind,
    check_tree,
    detach,
    fresh_leaf,
    leaves,
    like,
    names,
)

INPUTS, CAPTURED, USE = "inputs", "captured tensors", "use of theta"


def examine_inputs(problem: Problem) -> list[Finding]:
    """Shapes, dtypes, tensors that derivatives would miss, and variables that do nothing."""
    bilevel = problem.plain
    try:
        values = [
            _values(problem, objective, role)
            for objective, role in ((bilevel.lower, "lower"), (bilevel.upper, "upper"))
        ]
        if values[0].shape != values[1].shape:
            raise InputError(
                f"the lower objective returned values of shape {tuple(values[0].shape)}, the upper "
                f"one {tuple(values[1].shape)}; both return one value for each task."
            )
    except HypergradError as error:
        remedy = "follow what the row 'inputs' says, so that each task gets its value"
        return [state(INPUTS, False, str(error), remedy), *_unasked((CAPTURED, USE), INPUTS)]
    problem.batch = values[0].shape
    fine = state(INPUTS, True, "trees, dtypes, devices, shapes, finite values")
    if any(value.requires_grad for value in values):
        message = (
            _refusal(problem) or "an objective's values require grad though its arguments don't"
        )
        remedy = (
            "add the captured tensor to theta, or detach() it if it is meant to be constant (its "
            "derivative would silently be lost)"
        )
        return [fine, state(CAPTURED, False, message, remedy), *_unasked((PHI, USE), CAPTURED)]
    alone = state(CAPTURED, True, "none that requires grad")
    unused = [
        f"the {role} objective does not use {label}"
        for role, objective in (("lower", bilevel.lower), ("upper", bilevel.upper))
        for label in _unused(problem, objective)
    ]
    if unused:
        remedy = "leave the unused part out of phi, or let both objectives depend on it"
        return [fine, alone, state(PHI, False, "; ".join(unused), remedy), *_unasked((USE,), PHI)]
    refusal = _refusal(problem)
    if refusal:
        remedy = "let the lower objective use theta together with phi"
        return [fine, alone, state(USE, False, refusal, remedy)]
    return [fine, alone, state(USE, True, "the lower objective depends on theta")]


def _values(problem: Problem, objective: Callable[[Any, Any], Tensor], role: str) -> Tensor:
    check_tree(problem.theta, "theta")
    check_tree(problem.phi, "phi")
    check_same_kind(problem.theta, problem.phi)
    with leaving_no_trace(), torch.enable_grad():
        values = objective(detach(problem.theta), detach(problem.phi))
        answer: object = values  # users' objectives are checked, not believed
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            given = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
            raise InputError(
                f"the {role} objective returned {given}; it must return a floating-point tensor "
                "with one value for each task."
            )
        check_batch(problem.phi, "phi", values.shape)
        require_finite(values.detach(), f"the {role} objective", per_task=True)
    return values


def _unused(problem: Problem, objective: Callable[[Any, Any], Tensor]) -> list[str]:
    """The leaves of phi that an objective's values do not depend on."""
    probes = [fresh_leaf(leaf) for leaf in leaves(problem.phi)]
    with leaving_no_trace(), torch.enable_grad():
        values = objective(detach(problem.theta), like(problem.phi, probes))
        parts: Sequence[Tensor | None] = [None] * len(probes)
        if values.requires_grad:
            parts = torch.autograd.grad(values.sum(), probes, allow_unused=True)
    pairs = zip(names(problem.phi, "phi"), parts, strict=True)
    return [label for label, part in pairs if part is None]


def _refusal(problem: Problem) -> str:
    """The library's own error message; empty if it takes the problem."""
    bilevel = problem.plain
    theta = like(problem.theta, (fresh_leaf(leaf) for leaf in leaves(problem.theta)))
    phi = like(problem.phi, (fresh_leaf(leaf) for leaf in leaves(problem.phi)))
    try:
        with leaving_no_trace():
            examine(bilevel.lower, problem.theta, problem.phi)
            evaluate(bilevel.upper, theta, phi, role="upper")
    except HypergradError as error:
        return str(error)
    return ""


def _unasked(names: tuple[str, ...], cause: str) -> list[Finding]:
    return [skip(name, f"not asked: first see to {cause!r}") for name in names]
