"""Questions on g's derivatives in phi: every entry matters, no kink, derivatives of g's values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypergrad.checks.findings import Finding, Verdict, compare, skip, state
from hypergrad.checks.problem import Problem, at_worst, noise
from hypergrad.errors import NotFiniteError
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.vectors import dot, norm
from hypergrad.tree import leaves, names, unflatten

USE, KINK, GRADIENT, SYMMETRY = "use of phi", "no kink", "gradient of g", "symmetric Hessian"

_PROBES = 3
# Half the way across a kink, as powers of eps, in units of phi's length.
_REACHES = (2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 6)


def examine_use(problem: Problem) -> list[Finding]:
    """Ask if every entry of phi changes g, here or at a random phi nearby."""
    vector, length = problem.vector, problem.length()
    reach = (vector.abs() + length[..., None] / math.sqrt(vector.shape[-1])) / 10
    unused = torch.ones_like(vector, dtype=torch.bool)
    for place in (vector, vector + reach * problem.draw(vector)):
        try:
            point = Linearisation(problem.plain.lower, problem.theta, problem.tree(place))
        except NotFiniteError:  # too far for this objective
            continue
        unused &= (point.gradient == 0) & (point.product(problem.draw(vector)) == 0)
    parts = unflatten(unused.to(vector), leaves(problem.phi))
    idle = ", ".join(
        f"{int(part.sum())} of {part.numel()} entries of {label}"
        for label, part in zip(names(problem.phi, "phi"), parts, strict=True)
        if bool(part.any())
    )
    return [
        state(
            USE,
            not idle,
            f"g stays the same whatever becomes of {idle}" if idle else "every entry changes g",
            "leave the unused entries out of phi, or add an l2 term on them, since nothing "
            "determines their minimiser",
        )
    ]


def examine_kink(problem: Problem) -> list[Finding]:
    """Ask if g's gradient jumps near phi; where g ends there, go back to the start."""
    try:
        return [_kink(problem)]
    except NotFiniteError as error:
        if problem.at_minimiser:
            raise
        problem.phi = problem.start
        problem.unsolved = f"Newton's method from the phi given came to where {error}"
        return [skip(KINK, "g is not finite all around the point where Newton's method ended")]


def _kink(problem: Problem) -> Finding:
    """Jump of g's gradient near phi, relative to its size.

    On the way from ``phi - s u`` to ``phi + s u`` it changes by ``2 s H u`` and a term of order s^3
    if g is smooth, but by a constant across a kink, however small s. The limit is half of the
    digits, and ten times what it departs from ``s H u`` on the next s of either side: rounding
    and higher derivatives are as large there (7/6 of the s^3 terms, to 1/3 in between), while a
    kink leaves nothing. Where Newton's method ended at no minimiser, a kink may have stopped it
    from some way off, and longer ways are tried.
    """
    vector, point = problem.vector, problem.linearise()
    turn = norm(point.product(problem.directions()))
    # a phi of zeros but for a kink is of no length; its way to where H alone would lead it is
    length = problem.length() + norm(point.gradient) / torch.where(turn > 0, turn, 1.0)
    curved = norm(point.product(vector)) + turn * problem.length()
    stopped = bool((norm(point.gradient) > problem.eps**0.5 * curved).any())
    measured, limits = [], []
    for reach in _REACHES if stopped and not problem.at_minimiser else _REACHES[:1]:
        for _ in range(_PROBES):
            way = problem.eps**reach * problem.directions() * length[..., None]
            image = point.product(way)
            far, ahead, behind, back = (
                Linearisation(
                    problem.plain.lower, problem.theta, problem.tree(vector + k * way), twice=False
                ).gradient
                for k in (2, 1, -1, -2)
            )
            size = torch.maximum(norm(ahead), norm(behind)) + curved
            scale = torch.where(size > 0, size, 1.0)
            stray = norm(far - ahead - image) + norm(behind - back - image)
            measured.append(norm(ahead - behind - 2 * image) / scale)
            limits.append(problem.eps**0.5 + 10 * stray / scale)
    worst, limit, _ = at_worst(torch.stack(measured), torch.stack(limits))
    return compare(
        KINK,
        worst,
        limit,
        "relative jump of g's gradient near phi",
        "smooth the kink of g (a norm or abs by sqrt(x^2 + c^2), relu by softplus), since the "
        "hypergradient takes g's second derivative, which a kink lacks; a penalty with a kink that "
        "is meant is given apart: conditions.Composite(g, L1(strength)) or GroupL2",
    )


def examine_derivatives(problem: Problem) -> list[Finding]:
    """Ask if autodiff's gradient is a derivative, and its Hessian symmetric."""
    gradient = _gradient(problem)
    return [gradient, _symmetry(problem, gradient.verdict is Verdict.OK)]


def _gradient(problem: Problem) -> Finding:
    """Autodiff's gradient of g against central differences of g: a wrong backward shows here.

    ``D(t) = [g(phi + t u) - g(phi - t u)] / 2t = g'u + a t^2 + O(t^4)``, so that ``|D(2t) - D(t)|``
    is three times the error of D(t). The limit is three times that, and thirty times what rounding
    adds, which is measured (``noise``).
    """
    vector, length = problem.vector, problem.length()
    point = problem.linearise()
    measured, limits = [], []
    for _ in range(_PROBES):
        unit = problem.directions() * length[..., None]

        def along(step: float, unit: Tensor = unit) -> Tensor:
            with torch.no_grad():
                phi = problem.tree(vector + step * unit)
                return problem.plain.lower(problem.theta, phi).double()

        t = problem.eps ** (1 / 3)
        near, far = ((along(s) - along(-s)) / (2 * s) for s in (t, 2 * t))
        slope = dot(point.gradient, unit).double()
        local = torch.maximum(noise(along, 16 * problem.eps), noise(along, t / 3))
        rounding = local + problem.eps * point.values.abs()
        # that of the slope itself: the gradient's terms are about |H phi| where they cancel
        own = problem.eps * (norm(point.gradient) + norm(point.product(unit))) * length
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
        "correct the backward of g's custom functions (or its detach() calls), since autodiff's "
        "gradient is not the derivative of its values",
    )


def _symmetry(problem: Problem, right: bool) -> Finding:
    """``u'Hv = v'Hu`` for random u and v, by autodiff's product."""
    product = problem.linearise().product
    measured, limits = [], []
    for _ in range(_PROBES):
        u, v = problem.directions(), problem.directions()
        hu, hv = product(u), product(v)
        # A product is linear but for its rounding, which this measures.
        rounding = norm(product(u + v) - hu - hv)
        size = torch.maximum(norm(hu), norm(hv))
        measured.append((dot(u, hv) - dot(v, hu)).abs())
        limits.append(30 * (rounding + problem.eps * u.shape[-1] * size))
    worst, limit, _ = at_worst(torch.stack(measured), torch.stack(limits))
    return compare(
        SYMMETRY,
        worst,
        limit,
        "|u'Hv - v'Hu| for random unit u and v",
        "correct the second derivative of g's custom functions, whose gradient is right"
        if right
        else "see that g is one function to be minimised (no detach() on a part of phi, as a fixed "
        "point or a game has it), since what autodiff differentiates is not the gradient of any "
        "function",
    )
