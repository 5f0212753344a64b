"""The quadratic upper level shared by Quad, Exp and Log.

f(theta, phi) = 1/2 |P phi - t|^2 + theta' Q phi + r/2 |theta|^2        (theory.md, section 1)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Inexact

from verification.problems.base import (
    Device,
    DType,
    Tensor,
    matvec,
    norm,
    spectral_norm,
    tensor,
    transposed,
)


@dataclass(frozen=True)
class LeastSquares:
    """f = 1/2 |P phi - t|^2 + theta' Q phi + r/2 |theta|^2, for each task.

    Attributes:
        P: design of the upper level.
        t: its targets.
        Q: coupling of theta and phi.
        r: weight of |theta|^2 / 2.
    """

    P: Float64[np.ndarray, "*batch m q"]
    t: Float64[np.ndarray, "*batch m"]
    Q: Float64[np.ndarray, "*batch p q"]
    r: Float64[np.ndarray, "*batch"]

    def gradients(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> tuple[Inexact[np.ndarray, "*batch p"], Inexact[np.ndarray, "*batch q"]]:
        """Gradients in theta and in phi."""
        misfit = matvec(self.P, phi) - self.t
        in_theta = matvec(self.Q, phi) + self.r[..., None] * theta
        in_phi = matvec(transposed(self.P), misfit) + transposed(self.Q) @ theta
        return in_theta, in_phi

    @property
    def lam12(self) -> Float64[np.ndarray, "*batch"]:
        """Lipschitz constant of grad_theta f in phi."""
        return spectral_norm(self.Q)

    @property
    def lam22(self) -> Float64[np.ndarray, "*batch"]:
        """Lipschitz constant of grad_phi f in phi."""
        return np.asarray(spectral_norm(self.P) ** 2)

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> tuple[Float64[np.ndarray, "*batch"], Float64[np.ndarray, "*batch"]]:
        """Norms of the terms of the gradients in theta and in phi."""
        P, Q = spectral_norm(self.P), spectral_norm(self.Q)
        size = np.linalg.norm(theta)
        in_theta = Q * norm(phi) + self.r * size
        in_phi = P * (P * norm(phi) + norm(self.t)) + Q * size
        return np.asarray(in_theta), np.asarray(in_phi)

    def objective(self, dtype: DType | None, device: Device) -> Callable[[Tensor, Tensor], Tensor]:
        """Objective in torch: theta (p,), phi (*batch, q) -> (*batch,)."""
        P, t = tensor(self.P, dtype, device), tensor(self.t, dtype, device)
        Q, r = tensor(self.Q, dtype, device), tensor(self.r, dtype, device)

        def upper(theta: Tensor, phi: Tensor) -> Tensor:
            misfit = (P @ phi[..., None])[..., 0] - t
            coupling = ((Q @ phi[..., None])[..., 0] * theta).sum(-1)
            return 0.5 * (misfit**2).sum(-1) + coupling + 0.5 * r * (theta**2).sum(-1)

        return upper
