"""The curvature of g at phi, and whether a closed form of it is right."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.findings import Finding, Verdict, compare, skip, state
from hypergrad.checks.problem import Problem, blaming
from hypergrad.errors import HypergradError, NotFiniteError
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.cholesky import dense
from hypergrad.linear.lanczos import lanczos
from hypergrad.linear.vectors import norm
from hypergrad.objectives.closed_form import ClosedForm, is_closed_form
from hypergrad.tree import detach, vector_of

CURVATURE, CONDITION, CLOSED = "curvature", "conditioning", "closed form"
NOT_CONVEX = (
    "regularise the lower objective or start its solver elsewhere, as phi is no minimiser "
    "(curvature=GaussNewton() keeps a network's curvature positive semidefinite; a saddle that is "
    "meant is stated by conditions.Stationary(g), or needs MINRES())"
)
NOT_UNIQUE = "regularise the lower objective (an l2 term), as its minimiser is not unique"

_LANCZOS_STEPS = 60


def examine_curvature(problem: Problem) -> list[Finding]:
    """The extreme eigenvalues at phi, and what they leave of the precision."""
    point = problem.linearise()
    n = problem.vector.shape[-1]
    small = n <= problem.size_limit
    if small:
        matrix = dense(point.product, problem.vector).double()
        values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    else:
        found = lanczos(point.product, problem.draw(problem.vector), steps=_LANCZOS_STEPS)
        ends = [torch.as_tensor(end.value).double() for end in (found.smallest, found.largest)]
        values = torch.stack(ends, dim=-1)
    problem.smallest, problem.largest = values.abs().amin(dim=-1), values.abs().amax(dim=-1)
    # Weyl: rounding moves every eigenvalue by at most |dH| <= n eps |H|.
    threshold = n * problem.eps * problem.largest
    size = torch.where(problem.largest > 0, problem.largest, 1.0)
    task = int((values[..., 0] / size).argmin())
    least, most = (float(x.reshape(-1)[task]) for x in (values[..., 0], values[..., -1]))
    where = f" of task {task}" if size.numel() > 1 else ""
    how = "" if small else f", estimated in {_LANCZOS_STEPS} Lanczos steps"
    spread = f"eigenvalues{where} from {least:.2g} to {most:.2g}{how}"
    problem.definite = bool((values[..., 0] >= -threshold).all())
    curved = state(CURVATURE, True, spread)
    if not problem.definite:
        curved = state(CURVATURE, False, f"indefinite: {spread}", NOT_CONVEX)
        if not small:
            problem.obstacle = f"an indefinite Hessian of more than {problem.size_limit} unknowns"
    if bool((problem.smallest <= threshold).any()):
        problem.obstacle = "a singular Hessian, which has no inverse"
        if problem.definite:
            curved = state(CURVATURE, False, f"singular: {spread}", NOT_UNIQUE)
    if problem.obstacle:
        return [curved, skip(CONDITION, f"not asked: {problem.obstacle}")]
    # theory.md, Theorem FP: rounding changes the hypergradient by about eps kappa of its terms.
    return [
        curved,
        compare(
            CONDITION,
            float((problem.largest / problem.smallest).max()),
            problem.accuracy / problem.eps,
            "condition number; limit: accuracy / precision",
            "use float64, or regularise the lower objective",
        ),
    ]


def examine_closed_form(problem: Problem) -> list[Finding]:
    """A closed form's gradient, product, inverse and diagonal against autodiff of the values."""
    lower = problem.bilevel.lower
    if not is_closed_form(lower):
        return [skip(CLOSED, "the lower objective offers none")]
    try:
        found = _closed_form(problem, lower)
    except (HypergradError, RuntimeError) as error:
        found = state(CLOSED, False, str(error), _REMEDY)
    if found.verdict is Verdict.FAULT:
        problem.trusted = problem.plain  # what follows examines the values' own derivatives
    return [found]


_REMEDY = "correct the closed form, which is not the derivative of the objective's values"


def _closed_form(problem: Problem, lower: ClosedForm) -> Finding:
    point = problem.linearise()
    theta, phi = detach(problem.theta), detach(problem.phi)
    vector = problem.vector
    away, slope = _away(problem)
    with blaming("the closed form"), torch.no_grad():
        form = lower.hessian(theta, phi)
        claimed = vector_of(lower.gradient(theta, away), phi, "gradient", problem.batch)
        u = problem.directions()
        image, own = point.product(u), form.product(u)
        # the an inverse need only serve positive definite matrices
        solved = form.inverse(image) if problem.definite and not problem.obstacle else u
        diagonal = form.diagonal()
        column = int(torch.randint(vector.shape[-1], (), generator=problem.generator))
        unit = torch.zeros_like(vector)
        unit[..., column] = 1.0
        exact = point.product(unit)[..., column]
    top = problem.largest.to(vector)
    errors = {
        "gradient": norm(claimed - slope) / norm(slope),
        "Hessian product": norm(own - image) / top,
        "inverse": norm(point.product(solved) - image) / norm(image),
        "diagonal": (diagonal.expand_as(vector)[..., column] - exact).abs() / top,
    }
    part = max(errors, key=lambda name: float(errors[name].nan_to_num(nan=torch.inf).max()))
    return compare(
        CLOSED,
        float(errors[part].nan_to_num(nan=torch.inf).max()),
        # How much a formula rounds is its own affair (Woodbury's loses |H|/l2), so the limit is
        # that of an adjoint solve: half of the digits.
        math.sqrt(problem.eps),
        f"relative error; the worst is that of its {part}",
        _REMEDY,
    )


def _away(problem: Problem) -> tuple[Any, Tensor]:
    """A phi at which the gradient is not mere rounding, as it is at a minimiser; and autodiff's."""
    shift = problem.directions() * problem.length().clamp(min=1.0)[..., None]
    phi = problem.tree(problem.vector + shift)
    try:
        return phi, Linearisation(problem.plain.lower, problem.theta, phi).gradient
    except NotFiniteError:  # too far for this objective
        return problem.phi, problem.linearise().gradient
