"""Quad in exact rational arithmetic, on the very floats it is made of.

Every float64 is a dyadic rational, so that nothing is rounded here: not the data, not the solution.
What is computed are the formulas of theory.md, section 1, and the Krylov-Galerkin form of
conjugate gradients, for one task at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from flint import arb, ctx, fmpq, fmpq_mat
from jaxtyping import Float64

from verification.problems import Quad
from verification.problems.base import take

Rational: TypeAlias = Any
"""An fmpq_mat with one column, or more."""

BITS = 128  # of the square root in `distance`, the one thing here that is not rational


def rational(array: Float64[np.ndarray, "..."]) -> Rational:
    """A vector (as one column) or a matrix of floats, exactly."""
    rows = array.reshape(len(array), -1).tolist()
    return fmpq_mat([[fmpq(*float(x).as_integer_ratio()) for x in row] for row in rows])


def distance(floats: Float64[np.ndarray, " n"], exact: Rational) -> float:
    """Euclidean norm of `floats - exact`, subtracted before anything is rounded."""
    if not np.isfinite(floats).all():
        return float("nan")
    return norm(rational(floats) - exact)


def norm(vector: Rational) -> float:
    """Euclidean norm of a column."""
    square = sum((x * x for x in vector.entries()), fmpq(0))
    with ctx.workprec(BITS):
        return float(arb(square).sqrt().upper())


def mean(vectors: Sequence[Rational]) -> Rational:
    """Mean of columns."""
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total * fmpq(1, len(vectors))


@dataclass(frozen=True)
class _Task:
    """One task's data."""

    A: Rational
    B: Rational
    c: Rational
    P: Rational
    t: Rational
    Q: Rational
    r: Any

    @classmethod
    def of(cls, family: Quad) -> "_Task":
        up = family.upper
        (r,) = rational(up.r.reshape(1)).entries()
        A, B, c = rational(family.A), rational(family.B), rational(family.c)
        return cls(A, B, c, rational(up.P), rational(up.t), rational(up.Q), r)

    def minimiser(self, theta: Rational) -> Rational:
        return self.A.solve(self.B * theta + self.c)

    def cotangent(self, theta: Rational, phi: Rational) -> Rational:
        return self.P.transpose() * (self.P * phi - self.t) + self.Q.transpose() * theta

    def hypergradient(self, theta: Rational, phi: Rational, v: Rational) -> Rational:
        return self.Q * phi + theta * self.r + self.B.transpose() * v


def tasks_of(family: Quad) -> list[Quad]:
    """Each task by itself."""
    return [take(family, index) for index in np.ndindex(*family.batch)]


def minimisers(family: Quad, theta: Float64[np.ndarray, " p"]) -> list[Rational]:
    """phi* = A^{-1} (B theta + c) of each task."""
    at = rational(theta)
    return [_Task.of(task).minimiser(at) for task in tasks_of(family)]


def adjoints(family: Quad, theta: Float64[np.ndarray, " p"]) -> list[Rational]:
    """v* = A^{-1} grad_phi f(theta, phi*) of each task."""
    at = rational(theta)
    data = [_Task.of(task) for task in tasks_of(family)]
    return [task.A.solve(task.cotangent(at, task.minimiser(at))) for task in data]


def gradient(family: Quad, theta: Float64[np.ndarray, " p"]) -> Rational:
    """The gradient of F, the mean over the tasks."""
    at = rational(theta)
    answers = []
    for task in map(_Task.of, tasks_of(family)):
        phi = task.minimiser(at)
        answers.append(task.hypergradient(at, phi, task.A.solve(task.cotangent(at, phi))))
    return mean(answers)


def finite_steps(
    family: Quad,
    theta: Float64[np.ndarray, " p"],
    phi0: Float64[np.ndarray, "*batch q"],
    v0: Float64[np.ndarray, "*batch q"],
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> Rational:
    """Algorithm 1's answer after K = steps and N = max_steps: the mean over the tasks.

    v_N = v_0 + V (V'AV)^{-1} V' r_0 with V = (r_0, A r_0, ...), which need not be orthonormal where
    nothing is rounded. The Krylov space may end early: V is cut at its rank.
    """
    at, alpha = rational(theta), fmpq(*step_size.as_integer_ratio())
    answers = []
    for index, part in zip(np.ndindex(*family.batch), tasks_of(family), strict=True):
        task = _Task.of(part)
        phi, force = rational(phi0[index]), task.B * at + task.c
        for _ in range(steps):
            phi = phi - (task.A * phi - force) * alpha
        v = rational(v0[index])
        residual = task.cotangent(at, phi) - task.A * v
        V = _krylov(task.A, residual, max_steps)
        if V is not None:
            inner = V.transpose() * task.A * V
            v = v + V * inner.solve(V.transpose() * residual)
        answers.append(task.hypergradient(at, phi, v))
    return mean(answers)


def _krylov(A: Rational, residual: Rational, steps: int) -> Rational | None:
    """A basis of the Krylov space, as columns; None if the residual is zero."""
    columns: list[list[Any]] = []
    fresh = residual
    basis = None
    for _ in range(steps):
        columns.append(fresh.entries())
        trial = fmpq_mat(columns).transpose()
        if trial.rank() < len(columns):
            break
        basis, fresh = trial, A * fresh
    return basis
