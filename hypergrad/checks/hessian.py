"""Whether the derivatives of g in phi are what they claim, and what its curvature is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hypergrad.checks.report import Finding, Verdict, compare, skip, state
from hypergrad.checks.subject import Subject, at_worst, noise, told
from hypergrad.errors import HypergradError, NotFiniteError
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.cholesky import dense
from hypergrad.linear.lanczos import lanczos
from hypergrad.linear.vectors import dot, norm
from hypergrad.objectives.closed_form import ClosedForm
from hypergrad.tree import detach, vector_of

GRADIENT, SYMMETRY = "gradient of g", "symmetric Hessian"
CURVATURE, CONDITION, CLOSED = "curvature", "conditioning", "closed form"

_PROBES = 3
_LANCZOS_STEPS = 60


def examine_derivatives(subject: Subject) -> list[Finding]:
    """Whether autodiff's gradient is a derivative, and its Hessian symmetric."""
    return [_gradient(subject), _symmetry(subject)]


def _gradient(subject: Subject) -> Finding:
    """Autodiff's gradient of g against central differences of g: a wrong backward shows here.

    ``D(t) = [g(phi + t u) - g(phi - t u)] / 2t = g'u + a t^2 + O(t^4)``, so that ``|D(2t) - D(t)|``
    is three times the error of D(t). The limit is three times that, and thirty times what rounding
    adds, which is measured (``noise``).
    """
    vector, length = subject.vector, subject.length()
    point = subject.linearise()
    measured, limits = [], []
    for _ in range(_PROBES):
        unit = subject.directions() * length[..., None]

        def along(step: float, unit: Tensor = unit) -> Tensor:
            with torch.no_grad():
                phi = subject.tree(vector + step * unit)
                return subject.plain.lower(subject.theta, phi).double()

        t = subject.eps ** (1 / 3)
        near, far = ((along(s) - along(-s)) / (2 * s) for s in (t, 2 * t))
        slope = dot(point.gradient, unit).double()
        local = torch.maximum(noise(along, 16 * subject.eps), noise(along, t / 3))
        rounding = local + subject.eps * point.values.abs()
        # that of the slope itself: the gradient's terms are about |H phi| where they cancel
        own = subject.eps * (norm(point.gradient) + norm(point.product(unit))) * length
        # the same to the last bit at four places: g's rounding hides its slope, which tells nothing
        constant = (near == 0) & (far == 0)
        measured.append(torch.where(constant, 0.0, (near - slope).abs()))
        limits.append(
            3 * (far - near).abs() + 30 * (rounding / t + math.sqrt(vector.shape[-1]) * own)
        )
    worst, limit, _ = at_worst(torch.stack(measured), torch.stack(limits))
    return compare(
        GRADIENT,
        worst,
        limit,
        "autodiff's, less central differences of g",
        "correct the backward of g's custom functions (or its detach() calls, or its kinks), "
        "since autodiff's gradient is not the derivative of its values",
    )


def _symmetry(subject: Subject) -> Finding:
    """``u'Hv = v'Hu`` for random u and v, by autodiff's product."""
    product = subject.linearise().product
    measured, limits = [], []
    for _ in range(_PROBES):
        u, v = subject.directions(), subject.directions()
        hu, hv = product(u), product(v)
        # A product is linear but for its rounding, which this measures.
        rounding = norm(product(u + v) - hu - hv)
        size = torch.maximum(norm(hu), norm(hv))
        measured.append((dot(u, hv) - dot(v, hu)).abs())
        limits.append(30 * (rounding + subject.eps * u.shape[-1] * size))
    worst, limit, _ = at_worst(torch.stack(measured), torch.stack(limits))
    return compare(
        SYMMETRY,
        worst,
        limit,
        "|u'Hv - v'Hu| for random unit u and v",
        "correct the backward of g's custom functions (or its detach() calls), since what "
        "autodiff differentiates is not the gradient of any function",
    )


def examine_curvature(subject: Subject) -> list[Finding]:
    """The extreme eigenvalues at phi, and what they leave of the precision."""
    point = subject.linearise()
    n = subject.vector.shape[-1]
    small = n <= subject.size_limit
    if small:
        matrix = dense(point.product, subject.vector).double()
        values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
        subject.smallest, subject.largest = values[..., 0], values[..., -1]
    else:
        found = lanczos(point.product, subject.draw(subject.vector), steps=_LANCZOS_STEPS)
        subject.smallest = torch.as_tensor(found.smallest.value).double()
        subject.largest = torch.as_tensor(found.largest.value).double()
    how = "" if small else f", estimated in {_LANCZOS_STEPS} Lanczos steps"
    size = torch.maximum(subject.largest.abs(), subject.smallest.abs())
    # Weyl: rounding moves every eigenvalue by at most |dH| <= n eps |H|.
    threshold = n * subject.eps * size
    margin = (subject.smallest / torch.where(size > 0, size, 1.0)).reshape(-1)
    task = int(margin.argmin())
    least, most = (float(x.reshape(-1)[task]) for x in (subject.smallest, subject.largest))
    where = f" of task {task}" if margin.numel() > 1 else ""
    spread = f"eigenvalues{where} from {least:.2g} to {most:.2g}{how}"
    fine = bool((subject.smallest > threshold).all())
    if not fine:
        kind, remedy = (
            (
                "indefinite",
                "take more lower steps, as phi is no minimiser, or regularise the lower objective "
                "(curvature=GaussNewton() keeps a network's curvature positive semidefinite)",
            )
            if least < -float(threshold.reshape(-1)[task])
            else ("singular", "regularise the lower objective, as its minimiser is not unique")
        )
        fault = state(CURVATURE, False, f"{kind}: {spread}", remedy)
        return [fault, skip(CONDITION, f"not asked: first see to {CURVATURE!r}")]
    condition = float((subject.largest / subject.smallest).max())
    # theory.md, Theorem FP: rounding changes the hypergradient by about eps kappa of its terms.
    return [
        state(CURVATURE, True, spread),
        compare(
            CONDITION,
            condition,
            subject.accuracy / subject.eps,
            "condition number; limit: accuracy / precision",
            "use float64, or regularise the lower objective",
        ),
    ]


def examine_closed_form(subject: Subject) -> list[Finding]:
    """A closed form's gradient, product, inverse and diagonal against autodiff of the values."""
    lower = subject.problem.lower
    if not isinstance(lower, ClosedForm):
        return [skip(CLOSED, "the lower objective offers none")]
    try:
        found = _closed_form(subject, lower)
    except (HypergradError, RuntimeError) as error:
        found = state(CLOSED, False, str(error), _REMEDY)
    if found.verdict is Verdict.FAULT:
        subject.trusted = subject.plain  # what follows examines the values' own derivatives
    return [found]


_REMEDY = "correct the closed form, which is not the derivative of the objective's values"


def _closed_form(subject: Subject, lower: ClosedForm) -> Finding:
    point = subject.linearise()
    theta, phi = detach(subject.theta), detach(subject.phi)
    vector = subject.vector
    away, slope = _away(subject)
    with told("the closed form"), torch.no_grad():
        form = lower.hessian(theta, phi)
        claimed = vector_of(lower.gradient(theta, away), phi, "gradient", subject.batch)
        u = subject.directions()
        image, own = point.product(u), form.product(u)
        solved = form.inverse(image)
        diagonal = form.diagonal()
        column = int(torch.randint(vector.shape[-1], (), generator=subject.generator))
        unit = torch.zeros_like(vector)
        unit[..., column] = 1.0
        exact = point.product(unit)[..., column]
    top = subject.largest.to(vector)
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
        math.sqrt(subject.eps),
        f"relative error; the worst is that of its {part}",
        _REMEDY,
    )


def _away(subject: Subject) -> tuple[Any, Tensor]:
    """A phi at which the gradient is not mere rounding, as it is at a minimiser; and autodiff's."""
    shift = subject.directions() * subject.length().clamp(min=1.0)[..., None]
    phi = subject.tree(subject.vector + shift)
    try:
        return phi, Linearisation(subject.plain.lower, subject.theta, phi).gradient
    except NotFiniteError:  # too far for this objective
        return subject.phi, subject.linearise().gradient
