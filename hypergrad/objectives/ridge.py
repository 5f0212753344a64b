"""Ridge regression on features, with its exact minimiser and adjoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError

# n examples, d features, c outputs; *batch are the tasks


@dataclass(frozen=True, slots=True, eq=False)
class RidgeRegression:
    """``g = |X W' - Y|^2 / (2n) + l2/2 |W|^2`` for each task.

    theta is the features ``(*batch, n, d)``, phi the head ``(*batch, c, d)``.

    Attributes:
        targets: ``(*batch, n, c)``, one-hot rows for the ridge heads of R2-D2 (Bertinetto 2019).
        l2: strength of the regulariser; positive.
    """

    targets: Float[Tensor, "*batch n c"]
    l2: float

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise InputError(f"RidgeRegression got l2={self.l2}; it must be positive.")

    def __call__(
        self, theta: Float[Tensor, "*batch n d"], phi: Float[Tensor, "*batch c d"]
    ) -> Float[Tensor, "*batch"]:
        """The values of g."""
        fit = (theta @ phi.mT - self.targets).square().sum(dim=(-2, -1)) / (2 * theta.shape[-2])
        return fit + self.l2 / 2 * phi.square().sum(dim=(-2, -1))

    def gradient(
        self, theta: Float[Tensor, "*batch n d"], phi: Float[Tensor, "*batch c d"]
    ) -> Float[Tensor, "*batch c d"]:
        """``(X W' - Y)' X / n + l2 W``."""
        return (theta @ phi.mT - self.targets).mT @ theta / theta.shape[-2] + self.l2 * phi

    def hessian(
        self, theta: Float[Tensor, "*batch n d"], phi: Float[Tensor, "*batch c d"]
    ) -> RidgeHessian:
        """The Hessian, the same at every phi."""
        return RidgeHessian(features=theta, outputs=phi.shape[-2], l2=self.l2)

    def minimiser(self, theta: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch c d"]:
        """The exact head ``Y' (X X' + n l2 I)^{-1} X``, by one n x n solve a task."""
        shifted = _shifted_gram(theta, self.l2)
        dual: Tensor = torch.linalg.solve_ex(shifted, self.targets)[0]  # positive definite
        return dual.mT @ theta


@dataclass(frozen=True, slots=True, eq=False)
class RidgeHessian:
    """``H = I (x) (X'X/n + l2 I)``, the same block for each output.

    Attributes:
        features: ``(*batch, n, d)``.
        outputs: c.
        l2: the regulariser's strength.
    """

    features: Float[Tensor, "*batch n d"]
    outputs: int
    l2: float

    def product(self, vector: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``H v``."""
        x, head = self.features, self._head(vector)
        return ((x @ head.mT).mT @ x / x.shape[-2] + self.l2 * head).reshape(vector.shape)

    def inverse(self, rhs: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``H^{-1} B = (B - B X' (X X' + n l2 I)^{-1} X) / l2`` (Woodbury)."""
        x, head = self.features, self._head(rhs)
        solved: Tensor = torch.linalg.solve_ex(_shifted_gram(x, self.l2), x @ head.mT)[0]
        return ((head - solved.mT @ x) / self.l2).reshape(rhs.shape)

    def diagonal(self) -> Float[Tensor, "*batch q"]:
        """``(1/n) sum_j x_jd^2 + l2`` for feature d, the same for each output."""
        spread = self.features.square().mean(dim=-2) + self.l2
        return spread.repeat(*(1 for _ in spread.shape[:-1]), self.outputs)

    def _head(self, vector: Tensor) -> Tensor:
        return vector.reshape(*vector.shape[:-1], self.outputs, self.features.shape[-1])


def _shifted_gram(features: Tensor, l2: float) -> Tensor:
    n = features.shape[-2]
    eye = torch.eye(n, dtype=features.dtype, device=features.device)
    shifted: Tensor = features @ features.mT + n * l2 * eye
    return shifted
