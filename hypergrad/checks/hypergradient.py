"""Whether the hypergradient at phi can be trusted: converged phi, solved adjoint, dense oracle."""

from __future__ import annotations

import math

import torch

from hypergrad.checks.answer import differentiate, rounding_of
from hypergrad.checks.report import Finding, Verdict, compare, skip, state
from hypergrad.checks.subject import Plain, Subject
from hypergrad.errors import HypergradError
from hypergrad.implicit.pullback import hypergradient
from hypergrad.linear.solution import Status
from hypergrad.linear.vectors import norm
from hypergrad.tree import fresh_leaf, leaves, like, unflatten

CONVERGED, ADJOINT, ORACLE = "converged phi", "adjoint solve", "dense oracle"

_MORE = "run more lower steps, as phi is too far from the minimiser for this hypergradient"


def examine_phi(subject: Subject) -> list[Finding]:
    """How far phi is from the minimiser, and what one Newton step changes."""
    point = subject.linearise()
    shift = subject.exact.solve(point.product, point.gradient).x
    distance = float((norm(shift) / subject.length()).max())
    here = differentiate(subject, subject.trusted, subject.phi, subject.exact)
    told = f"distance from the minimiser {distance:.1e} |phi|"
    if distance <= rounding_of(subject):  # as close as the precision lets anybody come
        return [compare(CONVERGED, distance, rounding_of(subject), told, _MORE)]
    try:
        there = differentiate(
            subject, subject.trusted, subject.tree(subject.vector - shift), subject.exact
        )
    except HypergradError as error:
        return [state(CONVERGED, False, f"{told}, where {error}", _MORE)]
    size = max(here.size, there.size)
    change = float((there.total - here.total).norm())
    return [
        compare(
            CONVERGED,
            change / size if size > 0 else change,
            subject.accuracy + rounding_of(subject),
            f"{told}; measured: what going there changes in the hypergradient",
            _MORE,
        )
    ]


def examine_adjoint(subject: Subject) -> list[Finding]:
    """The adjoint solve by the user's solver, which sees the closed form if that is right."""
    trusted = subject.trusted
    found = hypergradient(trusted, subject.theta, subject.phi, solver=subject.solver)
    adjoint = found.certificate.adjoint
    worst = int(adjoint.residual.nan_to_num(nan=torch.inf).argmax())
    if not bool(adjoint.converged.all()):
        worst = int((~adjoint.converged).reshape(-1).int().argmax())
    status = Status(int(adjoint.status.reshape(-1)[worst]))
    residual = float(adjoint.residual.reshape(-1)[worst])
    where = f" of task {worst}" if adjoint.residual.numel() > 1 else ""
    name = type(subject.solver).__name__
    evidence = f"residual{where}: {status.name} ({name}, {adjoint.matvecs} products)"
    tolerance = float(getattr(subject.solver, "rtol", math.nan))  # any LinearSolver may come here
    fine = bool(adjoint.converged.all())
    verdict = Verdict.OK if fine else Verdict.FAULT
    remedy = f"see to the adjoint solver: {status.remedy.rstrip('.').split('; ')[0]}"
    return [Finding(ADJOINT, verdict, residual, tolerance, evidence, remedy)]


def examine_oracle(subject: Subject) -> list[Finding]:
    """The library's hypergradient at phi against dense derivatives of all tasks at once.

    Rows of the full Hessian, blocks between tasks included, and of J, by one backward pass for
    each entry of the gradient; one LU solve in float64. Shares with the kernel neither its
    products, its tasks nor its solvers.
    """
    entries = subject.vector.numel()
    if entries > subject.size_limit:
        return [skip(ORACLE, f"{entries} unknowns, more than size_limit={subject.size_limit}")]
    answer = differentiate(subject, subject.trusted, subject.phi, subject.exact)
    theta = [fresh_leaf(leaf) for leaf in leaves(subject.theta)]
    probes = [fresh_leaf(leaf) for leaf in leaves(subject.phi)]
    with torch.enable_grad():
        total = Plain(subject.problem.lower, "lower")(
            like(subject.theta, theta), like(subject.phi, probes)
        ).sum()
        gradient = torch.cat(
            [part.reshape(-1) for part in torch.autograd.grad(total, probes, create_graph=True)]
        )
    rows = [
        torch.autograd.grad(
            entry, [*probes, *theta], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for entry in gradient
    ]
    hessian, cross = (
        torch.stack(
            [torch.cat([part.reshape(-1) for part in row[chosen]]) for row in rows]
        ).double()
        for chosen in (slice(len(probes)), slice(len(probes), None))
    )
    parts = unflatten(answer.cotangent, probes)
    rhs = torch.cat([part.reshape(-1) for part in parts]).double()
    v = torch.linalg.solve(hessian, rhs)
    indirect = -(cross.mT @ v) / max(subject.batch.numel(), 1)
    exact = answer.direct.double() + indirect
    size = float(answer.direct.double().norm() + indirect.norm())
    # Both round by eps kappa of the terms |J||v|, which may cancel in J v.
    terms = size + float(torch.linalg.matrix_norm(cross) * v.norm()) / max(subject.batch.numel(), 1)
    error = float((answer.total.double() - exact).norm())
    scale = size if size > 0 else 1.0
    return [
        compare(
            ORACLE,
            error / scale,
            rounding_of(subject) * terms / scale,
            "hypergradient against that of dense H and J",
            "report this with the problem, since the library contradicts a dense solve of it",
        )
    ]
