"""Questions on the hypergradient at phi: converged phi, solved adjoint, dense oracle."""

from __future__ import annotations

import math

import torch

from hypergrad.checks.conditions import recognised
from hypergrad.checks.curvature import NOT_CONVEX
from hypergrad.checks.findings import Finding, Verdict, compare, skip, state
from hypergrad.checks.problem import Plain, Problem, differentiate
from hypergrad.errors import HypergradError
from hypergrad.implicit.pullback import hypergradient
from hypergrad.linear.solution import Status
from hypergrad.linear.vectors import norm
from hypergrad.tree import fresh_leaf, leaves, like, unflatten

CONVERGED, ADJOINT, ORACLE = "converged phi", "adjoint solve", "dense oracle"

_MORE = (
    "run more lower steps, as phi is too far from the minimiser for this hypergradient; a phi that "
    "solves equations, of which g is no energy, is stated by conditions.Root(F) or FixedPoint(T)"
)
_ELSEWHERE = (
    "see that the lower objective has a minimiser near the phi given, or start elsewhere, as "
    "Newton's method ended at none"
)


def examine_phi(problem: Problem) -> list[Finding]:
    """Distance of phi from the minimiser, and the change by one Newton step."""
    remedy = _MORE if problem.at_minimiser else _ELSEWHERE
    if problem.at_minimiser and (condition := recognised(problem)):
        remedy = (
            f"state conditions.{condition} as the lower level, whose solution phi is: g alone is "
            "still lower elsewhere"
        )
    if problem.unsolved:
        return [state(CONVERGED, False, problem.unsolved, remedy)]
    point = problem.linearise()
    shift = problem.exact.solve(point.product, point.gradient).x
    distance = float((norm(shift) / problem.length()).max())
    here = differentiate(problem, problem.trusted, problem.phi, problem.exact)
    words = f"distance from the minimiser {distance:.1e} |phi|"
    if distance <= problem.rounding:  # as close as the precision lets anybody come
        return [compare(CONVERGED, distance, problem.rounding, words, remedy)]
    try:
        there = differentiate(
            problem, problem.trusted, problem.tree(problem.vector - shift), problem.exact
        )
    except HypergradError as error:
        return [state(CONVERGED, False, f"{words}, where {error}", remedy)]
    size = max(here.size, there.size)
    change = float((there.total - here.total).norm())
    return [
        compare(
            CONVERGED,
            change / size if size > 0 else change,
            problem.accuracy + problem.rounding,
            f"{words}; measured: what going there changes in the hypergradient",
            remedy,
        )
    ]


def examine_adjoint(problem: Problem) -> list[Finding]:
    """The adjoint solve by the user's solver, which sees the closed form if that is right."""
    trusted = problem.trusted
    found = hypergradient(trusted, problem.theta, problem.phi, solver=problem.solver)
    adjoint = found.certificate.adjoint
    fine = bool(adjoint.converged.all())
    bad = adjoint.residual.nan_to_num(nan=torch.inf) if fine else (~adjoint.converged).int()
    worst = int(bad.argmax())
    status = Status(int(adjoint.status.reshape(-1)[worst]))
    residual = float(adjoint.residual.reshape(-1)[worst])
    where = f" of task {worst}" if adjoint.residual.numel() > 1 else ""
    name = type(problem.solver).__name__
    evidence = f"residual{where}: {status.name} ({name}, {adjoint.matvecs} products)"
    tolerance = float(getattr(problem.solver, "rtol", math.nan))  # any LinearSolver may come here
    verdict = Verdict.OK if fine else Verdict.FAULT
    remedy = f"see to the adjoint solver: {status.remedy.rstrip('.').split('; ')[0]}"
    if status is Status.INDEFINITE:
        remedy = NOT_CONVEX
    return [Finding(ADJOINT, verdict, residual, tolerance, evidence, remedy)]


def examine_oracle(problem: Problem) -> list[Finding]:
    """The library's hypergradient at phi against dense derivatives of all tasks at once.

    Rows of the full Hessian, blocks between tasks included, and of J, by one backward pass for
    each entry of the gradient; one LU solve in float64. Shares with the kernel neither its
    products, its tasks nor its solvers.
    """
    entries = problem.vector.numel()
    if entries > problem.size_limit:
        return [skip(ORACLE, f"{entries} unknowns, more than size_limit={problem.size_limit}")]
    answer = differentiate(problem, problem.trusted, problem.phi, problem.exact)
    theta = [fresh_leaf(leaf) for leaf in leaves(problem.theta)]
    probes = [fresh_leaf(leaf) for leaf in leaves(problem.phi)]
    with torch.enable_grad():
        total = Plain(problem.bilevel.lower, "lower")(
            like(problem.theta, theta), like(problem.phi, probes)
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
    indirect = -(cross.mT @ v) / max(problem.batch.numel(), 1)
    exact = answer.direct.double() + indirect
    size = float(answer.direct.double().norm() + indirect.norm())
    # Both round by eps kappa of the terms |J||v|, which may cancel in J v.
    terms = size + float(torch.linalg.matrix_norm(cross) * v.norm()) / max(problem.batch.numel(), 1)
    error = float((answer.total.double() - exact).norm())
    scale = size if size > 0 else 1.0
    return [
        compare(
            ORACLE,
            error / scale,
            problem.rounding * terms / scale,
            "hypergradient against that of dense H and J",
            "report this with the problem, since the library contradicts a dense solve of it",
        )
    ]
