"""Singular value thresholding, ``argmin |X - Y|^2/2 + strength |X|_*``, and its derivative.

``Y = U diag(s) V'`` gives ``X = U diag(f) V'`` with ``f_i = max(s_i - strength, 0)``. In the bases
U and V the derivative along dY multiplies the symmetric part of entry (i, j) of ``U' dY V`` by
``(f_i - f_j)/(s_i - s_j)``, and the skew part by ``(f_i + f_j)/(s_i + s_j)``; beyond the shorter
side s and f are zero (Candes, Sing-Long and Trzasko 2013). Where singular values coincide the first
is f's slope. Along the strength it is ``-U V'`` of what is left.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Thresholded:
    """The problem at one Y, decomposed.

    Attributes:
        left: ``(m, m)`` U.
        values: ``(max(m, n),)`` s, zeros at its end.
        right: ``(n, n)`` V'.
        strength: positive.
    """

    left: Float64[np.ndarray, "m m"]
    values: Float64[np.ndarray, " size"]
    right: Float64[np.ndarray, "n n"]
    strength: float

    @classmethod
    def of(cls, Y: Float64[np.ndarray, "m n"], strength: float) -> "Thresholded":
        """Decompose Y."""
        left, values, right = np.linalg.svd(Y)
        return cls(left, np.pad(values, (0, max(Y.shape) - len(values))), right, strength)

    @property
    def kept(self) -> Float64[np.ndarray, " size"]:
        """The singular values f of X."""
        return np.maximum(self.values - self.strength, 0.0)

    @property
    def rank(self) -> int:
        """The rank of X."""
        return int(np.count_nonzero(self.kept))

    def solution(self) -> Float64[np.ndarray, "m n"]:
        """X."""
        r = self.rank
        return np.asarray(self.left[:, :r] * self.kept[:r] @ self.right[:r])

    def along(self, dY: Float64[np.ndarray, "m n"]) -> Float64[np.ndarray, "m n"]:
        """The derivative along dY."""
        s, f, size = self.values, self.kept, len(self.values)
        rows, columns = dY.shape
        inside = np.zeros((size, size))
        inside[:rows, :columns] = self.left.T @ dY @ self.right.T
        apart, both = s[:, None] - s, s[:, None] + s
        equal = np.abs(apart) < 1e-9 * s[0]
        slope = (f > 0).astype(float)[:, None]
        even = np.where(equal, slope, (f[:, None] - f) / np.where(equal, 1.0, apart))
        odd = (f[:, None] + f) / np.where(both > 0, both, 1.0)
        moved = even * (inside + inside.T) / 2 + odd * (inside - inside.T) / 2
        return np.asarray(self.left @ moved[:rows, :columns] @ self.right)

    def along_strength(self) -> Float64[np.ndarray, "m n"]:
        """The derivative in the strength."""
        r = self.rank
        return np.asarray(-self.left[:, :r] @ self.right[:r])
