"""``check``: what is wrong with a problem, asked before anybody trusts its hypergradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from hypergrad.checks import curvature, derivatives, differences, inputs, purity, tasks
from hypergrad.checks import hypergradient as gradient
from hypergrad.checks.findings import Finding, Verdict, faults, skip, state
from hypergrad.checks.problem import Problem
from hypergrad.checks.report import Report
from hypergrad.checks.theorems import Survey, survey
from hypergrad.equation import Equation
from hypergrad.errors import HypergradError, InputError
from hypergrad.implicit.active import NonSmooth
from hypergrad.linear.solution import LinearSolver
from hypergrad.objective import Bilevel, is_indefinite
from hypergrad.tree import Phi, Theta, leaves

_Question: TypeAlias = Callable[[Problem], list[Finding]]


def _solve(problem: Problem) -> list[Finding]:
    """Find the phi for the questions that follow; a later one asks if it is a minimiser."""
    problem.solve()
    return []


# Causes before their effects. A fault under one of these makes the numbers of all that follows
# meaningless, so it is not asked ...
_FIRST: list[tuple[_Question, tuple[str, ...]]] = [
    (inputs.examine_inputs, (inputs.INPUTS, inputs.CAPTURED, inputs.USE)),
    (purity.examine_purity, (purity.STATE, purity.DETERMINISM)),
    (tasks.examine_tasks, (tasks.TASKS,)),
    (derivatives.examine_use, (derivatives.USE,)),
    (_solve, ()),
    (derivatives.examine_kink, (derivatives.KINK,)),
    (derivatives.examine_derivatives, (derivatives.GRADIENT, derivatives.SYMMETRY)),
]
_CURVATURE: list[tuple[_Question, tuple[str, ...]]] = [
    (curvature.examine_curvature, (curvature.CURVATURE, curvature.CONDITION)),
    (curvature.examine_closed_form, (curvature.CLOSED,)),
]
# ... nor are these, which need the Hessian's inverse, without one.
_INVERSE: list[tuple[_Question, tuple[str, ...]]] = [
    (gradient.examine_phi, (gradient.CONVERGED,)),
    (gradient.examine_adjoint, (gradient.ADJOINT,)),
    (differences.examine_differences, (differences.DIFFERENCES,)),
    (gradient.examine_oracle, (gradient.ORACLE,)),
]


def check(
    problem: Bilevel[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    at_minimiser: bool = False,
    solver: LinearSolver | None = None,
    accuracy: float = 0.01,
    size_limit: int = 200,
    seed: int = 0,
    upper_steps: int = 8,
    upper_step_size: float | None = None,
    steps: int | None = None,
    max_steps: int | None = None,
    step_size: float | None = None,
) -> Report:
    """Examine a problem of a smooth objective at a point, and say what to do about it.

    "Is this hypergradient right?" looks at causes before effects: inputs that the library can't
    take; captures; unused variables; state that a call changes; determinism; independence of the
    tasks; kinks; the gradient of g and the symmetry of its Hessian; curvature; a closed form, if
    there is one; how converged phi is; the adjoint solve; and the hypergradient, against central
    differences of ``theta -> mean_i f_i(theta, phi_i*(theta))`` and against dense linear algebra.

    "Do the theorems apply here?" takes upper steps, estimates the constants of theory.md at each,
    says which assumptions hold there, recommends K and N, and measures the error with them.

    A bad problem does not raise, it is reported. Tensors that an objective changes are restored
    as long as that is the fault under examination; torch's random state always is.

    Args:
        problem: f and g.
        theta: upper variable.
        phi: start of the lower solver; leading dimensions = tasks.
        at_minimiser: True if phi is the minimiser of ``g(theta, .)`` that hypergradients will be
            taken at. If False, Newton's method finds the minimiser, starting at phi.
        solver: the one that will be used for the adjoint; None means ``CG(rtol=sqrt(eps))``.
        accuracy: relative error of the hypergradient that you can live with.
        size_limit: dense matrices are used up to this many unknowns (a task's, for the solves and
            the eigenvalues; all tasks', for the dense oracle).
        seed: seed of the random probes.
        upper_steps: length of the trajectory of theta; 0 looks at the theta given alone.
        upper_step_size: step size of your training; None moves theta by a tenth of its size in the
            first step.
        steps: your K, to be measured beside the recommended one.
        max_steps: your N, to be measured.
        step_size: your lower step size, to be measured; None for the recommended one.

    Returns:
        The report; ``print`` it, or look at ``passed``.

    Raises:
        InputError: an option makes no sense, or the lower level is a condition.
    """
    lower = problem.lower
    if isinstance(lower, Equation | NonSmooth) or is_indefinite(lower):
        raise InputError(
            f"check examines minimisers of smooth objectives, and the lower level is a "
            f"{type(lower).__name__}; print(hypergradient(problem, theta, phi).certificate) says "
            "what is known of its solution. A smooth objective in it can be checked by itself."
        )
    positive = [size for size in (upper_step_size, step_size) if size is not None]
    if (
        not 0 < accuracy < 1
        or size_limit < 0
        or upper_steps < 0
        or not all(0 < size < math.inf for size in positive)
    ):
        raise InputError(
            f"check got accuracy={accuracy}, size_limit={size_limit}, upper_steps={upper_steps}, "
            f"upper_step_size={upper_step_size}, step_size={step_size}; it needs accuracy in "
            "(0, 1), size_limit and upper_steps >= 0, and positive step sizes."
        )
    own = (steps is None, max_steps is None)
    if any(own) != all(own) or (steps or 0) < 0 or (max_steps or 1) < 1:
        raise InputError(
            f"check got steps={steps}, max_steps={max_steps}; to have your own choice measured "
            "give both, K >= 0 and N >= 1."
        )
    examined = Problem(
        bilevel=problem,
        theta=theta,
        start=phi,
        at_minimiser=at_minimiser,
        given_solver=solver,
        accuracy=accuracy,
        size_limit=size_limit,
        generator=torch.Generator().manual_seed(seed),
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        findings = _hypergradient(examined)
        found: Survey | None = None
        # without a minimiser there is nothing to travel along
        needed = _names(_FIRST) + ([] if at_minimiser else [gradient.CONVERGED])
        if not any(finding.name in needed for finding in faults(findings)):
            found = survey(
                examined,
                upper_steps=upper_steps,
                upper_step_size=upper_step_size,
                steps=steps,
                max_steps=max_steps,
                step_size=step_size,
                seed=seed,
            )
    fine = findings[0].verdict is Verdict.OK
    return Report(_words(examined) if fine else "not examined in full", findings, found)


def _hypergradient(problem: Problem) -> list[Finding]:
    """The answers to the first of the two questions."""
    findings: list[Finding] = []
    blocked = ""
    for question, names in [*_FIRST, *_CURVATURE, *_INVERSE]:
        # an objective that captures a tensor may be impure as well
        anyway = question is purity.examine_purity and blocked != inputs.INPUTS
        without = (question, names) in _INVERSE and problem.obstacle
        if (blocked and not anyway) or without:
            continue
        found = _ask(question, names, problem)
        findings += found
        if (question, names) in _FIRST:
            blocked = blocked or next((fault.name for fault in faults(found)), "")
    asked = {finding.name for finding in findings}
    reason = f"not asked: first see to {blocked!r}" if blocked else f"not asked: {problem.obstacle}"
    left = [name for name in _names([*_FIRST, *_CURVATURE, *_INVERSE]) if name not in asked]
    return [*findings, *(skip(name, reason) for name in left)]


def _names(questions: Sequence[tuple[_Question, tuple[str, ...]]]) -> list[str]:
    return [name for _, names in questions for name in names]


def _ask(question: _Question, names: tuple[str, ...], problem: Problem) -> list[Finding]:
    """The answers; an error of the library's, or of torch's, is one."""
    try:
        return question(problem)
    except (HypergradError, RuntimeError) as error:
        first = state(names[0], False, str(error), f"see to what {names[0]!r} says")
        return [first, *(skip(name, f"not asked: first see to {names[0]!r}") for name in names[1:])]


def _words(problem: Problem) -> str:
    count = problem.batch.numel()
    size = problem.vector.shape[-1]
    shared = sum(leaf.numel() for leaf in leaves(problem.theta))
    dtype = str(leaves(problem.phi)[0].dtype).removeprefix("torch.")
    shape = f" {tuple(problem.batch)}" if len(problem.batch) > 1 else ""
    tasks = "1 task" if count == 1 else f"{count} tasks{shape}"
    return f"{tasks} of {size} unknowns, theta of {shared} numbers, {dtype}\n{problem.solved}"
