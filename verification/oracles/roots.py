"""Linear roots in exact rational arithmetic: ``A phi = B theta + c``, A of any shape of its own.

With ``f = w'phi + |phi|^2 / 2`` the gradient of ``f(phi*(theta))`` is ``S'(w + phi*)`` and its
Hessian ``S'S``, ``S = A^{-1} B``. The floats are taken as the rationals they are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from verification.oracles.rational import Rational, norm, rational


@dataclass(frozen=True)
class LinearRoot:
    """The data of one task, all of it dyadic."""

    A: Float64[np.ndarray, "q q"]
    B: Float64[np.ndarray, "q p"]
    c: Float64[np.ndarray, " q"]
    w: Float64[np.ndarray, " q"]

    def root(self, theta: Float64[np.ndarray, " p"]) -> Rational:
        """``phi*``, a column."""
        return rational(self.A).solve(rational(self.B) * rational(theta) + rational(self.c))

    def gradient(self, theta: Float64[np.ndarray, " p"]) -> Rational:
        """``S'(w + phi*)``, a column."""
        cotangent = rational(self.w) + self.root(theta)
        return rational(self.B).transpose() * rational(self.A).transpose().solve(cotangent)

    def curved(self, direction: Float64[np.ndarray, " p"]) -> Rational:
        """``S'S d``, a column."""
        moved = rational(self.A).solve(rational(self.B) * rational(direction))
        return rational(self.B).transpose() * rational(self.A).transpose().solve(moved)

    def scale(
        self, theta: Float64[np.ndarray, " p"], direction: Float64[np.ndarray, " p"]
    ) -> float:
        """Scale of rounding errors: ``|A^-1| |B| (|w| + |phi*|) + (|A^-1| |B|)^2 |d|``."""
        reach = np.linalg.norm(np.linalg.inv(self.A), 2) * np.linalg.norm(self.B, 2)
        size = norm(rational(self.w)) + norm(self.root(theta))
        return float(reach * size + reach**2 * np.linalg.norm(direction))
