"""Quadratics within boxes and simplices, with L1 penalties and with equations, in rationals.

``phi* = argmin phi'Q phi/2 - (c + B theta)' phi`` subject to the kind's condition, which theta
moves too. With Q positive definite there is one solution, and a point with its multipliers is the
solution if all signs are right (Karush, Kuhn, Tucker). So every pattern of bounds, support or
signs is tried by solving its linear system, and the one with the right signs is taken. On a pattern
the solution, and each slack whose sign was looked at, is affine in theta, with slopes from the same
matrix.

The data are multiples of 1/16, so that they are the same numbers in every precision.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from flint import fmpq, fmpq_mat
from jaxtyping import Float64

from verification.oracles.rational import Rational, rational
from verification.problems.kinks import Kinked

Pattern: TypeAlias = tuple[int, ...]
"""For each entry: 0 is free (in the support, not zero); -1 and 1 are at the lower and upper bound,
or are the signs of a lasso's entries, where 0 is a zero."""

_CLOSE = 1e-9  # of an entry to a bound or to zero, for a guess


@dataclass(frozen=True)
class Solved:
    """The solution at one theta.

    Attributes:
        pattern: entries that are held, and their sides.
        phi: ``(n, 1)``.
        slope: ``(n, p)`` d phi/d theta.
        slacks: ``(k, 1)`` all positive but at a degenerate point.
        slack_slopes: ``(k, p)`` d slacks/d theta.
    """

    pattern: Pattern
    phi: Rational
    slope: Rational
    slacks: Rational
    slack_slopes: Rational

    @property
    def degenerate(self) -> bool:
        """True if a slack is zero: the active set changes at this very theta."""
        return any(slack == 0 for slack in self.slacks.entries())


def solve(problem: Kinked, theta: Rational, near: Pattern) -> Solved:
    """The solution by enumeration of patterns.

    Args:
        problem: the task.
        theta: where, a column.
        near: a guess; patterns are tried by how many entries differ from it. The answer does not
            depend on it, as right signs prove a pattern, but the time does.

    Raises:
        ValueError: no pattern has the right signs, which Q positive definite excludes.
    """
    data = _Data.of(problem, theta)
    for pattern in sorted(_patterns(problem), key=lambda each: _apart(each, near)):
        found = data.on(pattern)
        if all(slack >= 0 for slack in found.slacks.entries()):
            return found
    raise ValueError(f"no pattern of {problem} solves it: Q is not positive definite.")


def guessed(problem: Kinked, theta: np.ndarray, phi: np.ndarray) -> Pattern:
    """The pattern that a point in floats seems to have."""
    low, high = np.zeros(len(phi)), np.full(len(phi), np.inf)
    match problem.kind:
        case "lasso":
            return tuple(int(side) for side in np.sign(np.where(np.abs(phi) < _CLOSE, 0, phi)))
        case "equations":
            return (0,) * len(phi)
        case "box":
            low, high = problem.first + problem.first_slope @ theta, problem.second
    return tuple(
        int(above) - int(below)
        for below, above in zip(phi - low < _CLOSE, high - phi < _CLOSE, strict=True)
    )


def _apart(left: Pattern, right: Pattern) -> int:
    return sum(a != b for a, b in zip(left, right, strict=True))


def _patterns(problem: Kinked) -> Iterator[Pattern]:
    n = len(problem.c)
    match problem.kind:
        case "box" | "lasso":
            yield from product((0, -1, 1), repeat=n)
        case "simplex":
            yield from (part for part in product((0, -1), repeat=n) if 0 in part)
        case "equations":
            yield (0,) * n


@dataclass(frozen=True)
class _Data:
    """Columns of values at theta, then slopes: ``(.., 1 + p)``."""

    problem: Kinked
    Q: Rational
    pull: Rational  # c + B theta
    first: Rational
    second: Rational

    @classmethod
    def of(cls, problem: Kinked, theta: Rational) -> "_Data":
        def affine(at_zero: np.ndarray, slope: np.ndarray) -> Rational:
            turned = rational(slope)
            return _beside(rational(at_zero) + turned * theta, turned)

        flat = np.zeros((max(problem.second.size, 1), problem.B.shape[1]))
        second = problem.second if problem.kind == "box" else np.zeros(1)
        return cls(
            problem,
            rational(problem.Q),
            affine(problem.c, problem.B),
            affine(problem.first, problem.first_slope),
            affine(second, flat[: len(second)]),
        )

    def on(self, pattern: Pattern) -> Solved:
        """Stationarity on the pattern: ``[Q C'; C 0] (phi, mu) = (pull - signs, d)``."""
        n, width = self.Q.nrows(), self.pull.ncols()
        kind, pull = self.problem.kind, self.pull
        rows: list[list[Any]] = []
        right: list[list[Any]] = []
        for index, side in enumerate(pattern):
            held = side == 0 if kind == "lasso" else side != 0
            if not held:
                continue
            rows.append([fmpq(int(place == index)) for place in range(n)])
            zero = [fmpq(0)] * width
            if kind == "box":
                right.append(_row(self.first if side < 0 else self.second, index))
            else:
                right.append(zero)
        if kind == "simplex":
            rows.append([fmpq(1)] * n)
            right.append(_row(self.first, 0))
        if kind == "equations":
            A = rational(self.problem.second)
            rows += [[A[i, j] for j in range(n)] for i in range(A.nrows())]
            right += [_row(self.first, i) for i in range(A.nrows())]
        if kind == "lasso":
            signs = fmpq_mat(
                n, n, [fmpq(pattern[i] * (i == j)) for i in range(n) for j in range(n)]
            )
            pull = pull - signs * self.first
        answer = _kkt(self.Q, rows, pull, right)
        phi = _cut(answer, 0, n)
        slacks = self._slacks(pattern, phi)
        return Solved(
            pattern,
            _columns(phi, 0, 1),
            _columns(phi, 1, width),
            _columns(slacks, 0, 1),
            _columns(slacks, 1, width),
        )

    def _slacks(self, pattern: Pattern, phi: Rational) -> Rational:
        """Values that must not be negative, with slopes: one row for each."""
        kind = self.problem.kind
        gradient = self.Q * phi - self.pull
        n, width = phi.nrows(), phi.ncols()
        found: list[list[Any]] = []
        support = [index for index, side in enumerate(pattern) if side == 0]
        for index in range(n):
            x, r, side = _row(phi, index), _row(gradient, index), pattern[index]
            if kind == "box":
                low, high = _row(self.first, index), _row(self.second, index)
                if side:
                    found.append([-side * entry for entry in r])
                else:
                    found += [_minus(x, low), _minus(high, x)]
            elif kind == "simplex":
                level = [
                    sum((_row(gradient, j)[k] for j in support), fmpq(0)) / len(support)
                    for k in range(width)
                ]
                found.append(_minus(r, level) if side else x)
            elif kind == "lasso":
                limit = _row(self.first, index)
                if side:
                    found.append([side * entry for entry in x])
                else:
                    found += [_minus(limit, r), [a + b for a, b in zip(limit, r, strict=True)]]
        if not found:
            found = [[fmpq(1)] + [fmpq(0)] * (width - 1)]
        return fmpq_mat(found)


def _kkt(Q: Rational, rows: list[list[Any]], top: Rational, bottom: list[list[Any]]) -> Rational:
    n, m = Q.nrows(), len(rows)
    matrix = fmpq_mat(n + m, n + m)
    for i in range(n):
        for j in range(n):
            matrix[i, j] = Q[i, j]
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrix[n + i, j] = entry
            matrix[j, n + i] = entry
    return matrix.solve(fmpq_mat([_row(top, i) for i in range(n)] + bottom))


def _row(matrix: Rational, index: int) -> list[Any]:
    return [matrix[index, column] for column in range(matrix.ncols())]


def _minus(left: list[Any], right: list[Any]) -> list[Any]:
    return [a - b for a, b in zip(left, right, strict=True)]


def _cut(matrix: Rational, first: int, last: int) -> Rational:
    return fmpq_mat([_row(matrix, index) for index in range(first, last)])


def _columns(matrix: Rational, first: int, last: int) -> Rational:
    return fmpq_mat([_row(matrix, index)[first:last] for index in range(matrix.nrows())])


def _beside(left: Rational, right: Rational) -> Rational:
    return fmpq_mat([_row(left, i) + _row(right, i) for i in range(left.nrows())])


def floats(matrix: Rational) -> Float64[np.ndarray, "rows columns"]:
    """The nearest floats."""
    entries = [float(entry.p) / float(entry.q) for entry in matrix.entries()]
    return np.array(entries).reshape(matrix.nrows(), matrix.ncols())
