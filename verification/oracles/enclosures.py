"""Rigorous enclosures in ball arithmetic: a vector of intervals that contains the exact gradient.

Quad: the linear systems are solved in balls. LC: Newton's method at high precision gives a phi and
a v that are nearly exact, and Theorem B (theory.md, section 2), evaluated in balls, bounds what is
left. Nothing about convergence is assumed: a Newton iteration that went wrong gives a wide
enclosure, never a false one.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from flint import arb, arb_mat, ctx
from jaxtyping import Float64

from verification.problems import LC, Quad
from verification.problems.base import take

Balls: TypeAlias = Any
"""An arb_mat with one column: one interval for each upper variable."""

BITS = 200
NEWTON_STEPS = 12  # from float64, 53 bits and doubling: 3 would do


def _ball(array: Float64[np.ndarray, "..."]) -> Balls:
    """Floats as balls of radius zero: exact."""
    return arb_mat(array.reshape(len(array), -1).tolist())


def _map(function: Callable[[Any], Any], vector: Balls) -> Balls:
    return arb_mat([[function(x)] for x in vector.entries()])


def _scale(vector: Balls, weights: Balls) -> Balls:
    """diag(weights) matrix, for a column or a matrix."""
    rows = vector.tolist()
    return arb_mat([[w * x for x in row] for w, row in zip(weights.entries(), rows, strict=True)])


def _norm(matrix: Balls) -> Any:
    """An upper bound on the Frobenius norm: of a column the Euclidean, of a matrix >= spectral.

    Of the entries' largest absolute values: the square root of a ball around zero is none.
    """
    return sum((x.abs_upper() ** 2 for x in matrix.entries()), arb(0)).sqrt().upper()


def distance(floats: Float64[np.ndarray, " n"], enclosure: Balls) -> float:
    """An upper bound on the distance from any point of the enclosure."""
    if not np.isfinite(floats).all():
        return float("nan")
    with ctx.workprec(BITS):
        return float(_norm(_ball(floats) - enclosure).upper())


def radius(enclosure: Balls) -> float:
    """The largest radius of its intervals."""
    return max(float(x.rad()) for x in enclosure.entries())


def quad_gradient(family: Quad, theta: Float64[np.ndarray, " p"], bits: int = BITS) -> Balls:
    """Enclosure of grad F for Quad."""
    with ctx.workprec(bits):
        return _mean([_quad_task(take(family, i), theta) for i in np.ndindex(*family.batch)])


def lc_gradient(family: LC, theta: Float64[np.ndarray, " p"], bits: int = BITS) -> Balls:
    """Enclosure of grad F for LC."""
    with ctx.workprec(bits):
        return _mean([_lc_task(take(family, i), theta) for i in np.ndindex(*family.batch)])


def _mean(vectors: Sequence[Balls]) -> Balls:
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total * (1 / arb(len(vectors)))


def _quad_task(task: Quad, theta: Float64[np.ndarray, " p"]) -> Balls:
    at, A, B = _ball(theta), _ball(task.A), _ball(task.B)
    P, Q = _ball(task.upper.P), _ball(task.upper.Q)
    phi = A.solve(B * at + _ball(task.c))
    b = P.transpose() * (P * phi - _ball(task.upper.t)) + Q.transpose() * at
    return Q * phi + at * arb(float(task.upper.r)) + B.transpose() * A.solve(b)


def _lc_task(task: LC, theta: Float64[np.ndarray, " p"]) -> Balls:
    at = _ball(theta)
    A, B, c, W = (_ball(part) for part in (task.A, task.B, task.c, task.W))
    P, R, t = _ball(task.P), _ball(task.R), _ball(task.t)
    a, w, r = (arb(float(part)) for part in (task.a, task.w, task.r))
    force, centre = B * at + c, W * at

    def slope(phi: Balls) -> Balls:
        return A * phi - force + _map(lambda x: a * x.tanh(), phi - centre)

    def bend(phi: Balls) -> Balls:  # the diagonal that log-cosh adds to H
        return _map(lambda x: a * (1 - x.tanh() ** 2), phi - centre)

    def hessian(phi: Balls) -> Balls:
        rows, extra = A.tolist(), bend(phi).entries()
        for i, x in enumerate(extra):
            rows[i][i] += x
        return arb_mat(rows)

    # midpoints only: whatever phi and v are, Theorem B holds for them
    phi = _ball(task.minimiser(theta))
    for _ in range(NEWTON_STEPS):
        phi = (phi - hessian(phi).solve(slope(phi))).mid()
    misfit = _map(lambda x: w * x.tanh(), P * phi + R * at - t)
    b, H = P.transpose() * misfit, hessian(phi)
    v = H.solve(b).mid()

    mu = certified_curvature(task.A)  # H >= A, because log-cosh is convex
    tanh_curvature = 4 / (3 * arb(3).sqrt())
    size_W, size_P, size_R, size_v = _norm(W), _norm(P), _norm(R), _norm(v)
    L12 = _norm(B) + a * size_W
    lam12, lam22 = w * size_P * size_R, w * size_P**2
    rH = a * tanh_curvature
    rJ = rH * size_W
    away = _norm(slope(phi)) / mu
    residual = _norm(b - H * v)
    bound = (lam12 + rJ * size_v) * away + L12 / mu * ((lam22 + rH * size_v) * away + residual)

    cross = B + _scale(W, bend(phi))  # -J'
    h = R.transpose() * misfit + at * r + cross.transpose() * v
    return _map(lambda x: x + arb(0, bound.upper()), h)


def certified_curvature(A: Float64[np.ndarray, "q q"]) -> Any:
    """A positive lower bound on the least eigenvalue of a symmetric matrix, proven.

    float64 proposes, balls dispose: A - m I is positive definite if elimination without exchanges
    leaves pivots that are certainly positive.

    Raises:
        ArithmeticError: if that cannot be shown.
    """
    proposed = arb(0.999 * float(np.linalg.eigvalsh(A)[0]))
    rows = (_ball(A) - _identity(len(A), proposed)).tolist()
    for i in range(len(rows)):
        if not (proposed > 0 and rows[i][i] > 0):
            raise ArithmeticError("the least eigenvalue could not be certified to be positive")
        for j in range(i + 1, len(rows)):
            factor = rows[j][i] / rows[i][i]
            for k in range(i, len(rows)):
                rows[j][k] = rows[j][k] - factor * rows[i][k]
    return proposed


def _identity(size: int, value: Any) -> Balls:
    return arb_mat([[value if i == j else arb(0) for j in range(size)] for i in range(size)])
