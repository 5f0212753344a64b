"""``check``: what is wrong with a problem, asked before anybody trusts its hypergradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch

from hypergrad.checks import differences, hessian, inputs, purity, tasks
from hypergrad.checks import hypergradient as gradient
from hypergrad.checks.report import DIFFERENCES, Finding, Report, Verdict, skip, state
from hypergrad.checks.subject import Subject
from hypergrad.errors import HypergradError, InputError
from hypergrad.linear.cg import CG
from hypergrad.linear.solution import LinearSolver
from hypergrad.objective import Bilevel
from hypergrad.tree import Phi, Theta, leaves

_Question: TypeAlias = Callable[[Subject], list[Finding]]

# Causes before their effects. A fault under a question that decides makes the numbers of all later
# ones meaningless, so they are not asked.
_QUESTIONS: list[tuple[_Question, tuple[str, ...], bool]] = [
    (purity.examine_purity, (purity.STATE, purity.DETERMINISM), True),
    (tasks.examine_tasks, (tasks.TASKS,), True),
    (hessian.examine_derivatives, (hessian.GRADIENT, hessian.SYMMETRY), True),
    (hessian.examine_curvature, (hessian.CURVATURE, hessian.CONDITION), True),
    (hessian.examine_closed_form, (hessian.CLOSED,), False),
    (gradient.examine_phi, (gradient.CONVERGED,), False),
    (gradient.examine_adjoint, (gradient.ADJOINT,), False),
    (differences.examine_differences, (DIFFERENCES,), False),
    (gradient.examine_oracle, (gradient.ORACLE,), False),
]


def check(
    problem: Bilevel[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver | None = None,
    accuracy: float = 0.01,
    size_limit: int = 200,
    seed: int = 0,
) -> Report:
    """Examine a problem at a point, and say what to do about it.

    Asks, causes before effects: whether the library can take the inputs; captures; unused
    variables; state that a call changes; determinism; independence of the tasks; the gradient of
    g and the symmetry of its Hessian; curvature; a closed form, if there is one; how converged phi
    is; the adjoint solve; and the hypergradient, against central differences of
    ``theta -> mean_i f_i(theta, phi_i*(theta))`` and against dense linear algebra.

    A bad problem does not raise, it is reported. Tensors that an objective changes are restored
    as long as that is the fault under examination; torch's random state always is.

    Args:
        problem: f and g.
        theta: upper variable.
        phi: the minimiser of ``g(theta, .)`` that hypergradients will be taken at.
        solver: as it will be used for the adjoint; None means ``CG(rtol=sqrt(eps))``.
        accuracy: relative error of the hypergradient that you can live with.
        size_limit: dense matrices are used up to this many unknowns (a task's, for the solves and
            the eigenvalues; all tasks', for the dense oracle).
        seed: of the random probes.

    Returns:
        The report; ``print`` it, or look at ``passed``.

    Raises:
        InputError: ``accuracy`` or ``size_limit`` makes no sense.
    """
    if not 0 < accuracy < 1 or size_limit < 0:
        raise InputError(
            f"check got accuracy={accuracy}, size_limit={size_limit}; it needs accuracy in (0, 1) "
            "and size_limit >= 0."
        )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return _examine(problem, theta, phi, solver, accuracy, size_limit, seed)


def _examine(
    problem: Bilevel[Any, Any],
    theta: Any,
    phi: Any,
    solver: LinearSolver | None,
    accuracy: float,
    size_limit: int,
    seed: int,
) -> Report:
    subject = Subject(
        problem=problem,
        theta=theta,
        phi=phi,
        solver=CG() if solver is None else solver,
        accuracy=accuracy,
        size_limit=size_limit,
        generator=torch.Generator().manual_seed(seed),
    )
    findings = inputs.examine_inputs(subject)
    blocked = next((f.name for f in findings if f.verdict is Verdict.FAULT), "")
    if findings[0].verdict is Verdict.OK and solver is None:
        subject.solver = CG(rtol=subject.eps**0.5)
    words = _words(subject) if findings[0].verdict is Verdict.OK else "not examined in full"
    for question, names, decides in _QUESTIONS:
        impure = question is purity.examine_purity and findings[0].verdict is Verdict.OK
        if blocked and not impure:
            findings += [skip(name, f"not asked: first see to {blocked!r}") for name in names]
            continue
        found = list(_ask(question, names, subject))
        findings += found
        if decides:
            blocked = blocked or next((f.name for f in found if f.verdict is Verdict.FAULT), "")
    return Report(subject=words, findings=tuple(findings))


def _ask(question: _Question, names: tuple[str, ...], subject: Subject) -> Iterator[Finding]:
    """The answers; a refusal of the library's, or of torch's, is one."""
    try:
        yield from question(subject)
    except (HypergradError, RuntimeError) as error:
        yield state(names[0], False, str(error), f"see to what {names[0]!r} says")
        for name in names[1:]:
            yield skip(name, f"not asked: first see to {names[0]!r}")


def _words(subject: Subject) -> str:
    count = subject.batch.numel()
    size = subject.vector.shape[-1]
    shared = sum(leaf.numel() for leaf in leaves(subject.theta))
    dtype = str(leaves(subject.phi)[0].dtype).removeprefix("torch.")
    shape = f" {tuple(subject.batch)}" if len(subject.batch) > 1 else ""
    tasks = "1 task" if count == 1 else f"{count} tasks{shape}"
    return f"{tasks} of {size} unknowns, theta of {shared} numbers, {dtype}"
