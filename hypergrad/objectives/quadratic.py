"""Quadratic objectives: the reference of every other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Quadratic:
    """``g = 1/2 phi'A phi - phi'(B theta + c)`` for each task (Quad of theory.md section 1).

    theta is a vector ``(p,)`` shared by the tasks, phi has shape ``(*batch, q)``.

    A, B and c are constants. Where the matrix itself is to be differentiated, write the objective
    as a function with A in theta: its gradient is then the symmetric one, ``(v phi' + phi v')/2``
    up to sign. That of ``torch.linalg.solve`` is ``v phi'``, which is not symmetric: symmetrise it
    before comparing entry by entry.

    Attributes:
        matrix: A, ``(*batch, q, q)``, symmetric positive definite.
        coupling: B, ``(*batch, q, p)``.
        offset: c, ``(*batch, q)``.
    """

    matrix: Float[Tensor, "*batch q q"]
    coupling: Float[Tensor, "*batch q p"]
    offset: Float[Tensor, "*batch q"]

    def __call__(
        self, theta: Float[Tensor, " p"], phi: Float[Tensor, "*batch q"]
    ) -> Float[Tensor, "*batch"]:
        """The values of g."""
        bent = _times(self.matrix, phi) / 2
        values: Tensor = torch.linalg.vecdot(phi, bent - self._pull(theta))
        return values

    def gradient(
        self, theta: Float[Tensor, " p"], phi: Float[Tensor, "*batch q"]
    ) -> Float[Tensor, "*batch q"]:
        """``A phi - B theta - c``."""
        return _times(self.matrix, phi) - self._pull(theta)

    def hessian(
        self, theta: Float[Tensor, " p"], phi: Float[Tensor, "*batch q"]
    ) -> QuadraticHessian:
        """The Hessian, the same everywhere."""
        return QuadraticHessian(matrix=self.matrix)

    def minimiser(self, theta: Float[Tensor, " p"]) -> Float[Tensor, "*batch q"]:
        """``A^{-1} (B theta + c)``."""
        return QuadraticHessian(matrix=self.matrix).inverse(self._pull(theta))

    def _pull(self, theta: Tensor) -> Tensor:
        pull: Tensor = self.coupling @ theta + self.offset
        return pull


@dataclass(frozen=True, slots=True, eq=False)
class QuadraticHessian:
    """The matrix A itself.

    Attributes:
        matrix: ``(*batch, q, q)``.
    """

    matrix: Float[Tensor, "*batch q q"]

    def product(self, vector: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``A v``."""
        return _times(self.matrix, vector)

    def inverse(self, rhs: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``A^{-1} b`` by Cholesky; NaN where A is not positive definite."""
        factor, failed = torch.linalg.cholesky_ex(self.matrix, upper=True)  # spares a transpose
        solved = torch.cholesky_solve(rhs[..., None], factor, upper=True)[..., 0]
        return solved.masked_fill((failed > 0)[..., None], torch.nan)

    def diagonal(self) -> Float[Tensor, "*batch q"]:
        """A's diagonal."""
        return self.matrix.diagonal(dim1=-2, dim2=-1)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Each task's product; a single task's by a plain one, which leaves a shorter graph."""
    product: Tensor = matrix @ vector if vector.ndim == 1 else (matrix @ vector[..., None])[..., 0]
    return product
