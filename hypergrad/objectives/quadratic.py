"""Quadratic objectives: the reference of every other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Quadratic:
    """``g = 1/2 phi'A phi - phi'(B theta + c)`` for each task (Quad of theory.md section 1).

    theta is a vector ``(p,)`` shared by the tasks, phi has shape ``(*batch, q)``.

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
        bent = (self.matrix @ phi[..., None])[..., 0] / 2
        values: Tensor = torch.linalg.vecdot(phi, bent - self._pull(theta))
        return values

    def gradient(
        self, theta: Float[Tensor, " p"], phi: Float[Tensor, "*batch q"]
    ) -> Float[Tensor, "*batch q"]:
        """``A phi - B theta - c``."""
        gradient: Tensor = (self.matrix @ phi[..., None])[..., 0] - self._pull(theta)
        return gradient

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


@dataclass(frozen=True, slots=True)
class QuadraticHessian:
    """The matrix A itself.

    Attributes:
        matrix: ``(*batch, q, q)``.
    """

    matrix: Float[Tensor, "*batch q q"]

    def product(self, vector: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``A v``."""
        product: Tensor = (self.matrix @ vector[..., None])[..., 0]
        return product

    def inverse(self, rhs: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``A^{-1} b``."""
        solved: Tensor = torch.linalg.solve(self.matrix, rhs[..., None])[..., 0]
        return solved

    def diagonal(self) -> Float[Tensor, "*batch q"]:
        """A's diagonal."""
        return self.matrix.diagonal(dim1=-2, dim2=-1)
