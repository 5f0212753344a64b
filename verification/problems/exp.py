"""Exp: ridge regression whose penalties are e^theta. F is not a quadratic, yet phi* is closed form.

H does not depend on phi, so Exp is as blind as Quad to where H was evaluated; J does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Inexact

from verification.problems.base import (
    Batch,
    Device,
    DType,
    FamilyConstants,
    Magnitudes,
    Tensor,
    TensorBilevel,
    matvec,
    norm,
    solve,
    spectral_norm,
    tensor,
    transposed,
)
from verification.problems.least_squares import LeastSquares


@dataclass(frozen=True)
class Exp:
    """g = 1/2 |X phi - y|^2 + 1/2 phi' diag(e^theta) phi, f least squares; p = q.

    H = X'X + diag(e^theta), phi* = H^{-1} X'y, J = diag(e^theta * phi) (theory.md, section 1).

    Attributes:
        X: design of the lower level.
        y: its targets.
        upper: the upper level.
    """

    X: Float64[np.ndarray, "*batch n q"]
    y: Float64[np.ndarray, "*batch n"]
    upper: LeastSquares

    @property
    def batch(self) -> Batch:
        """Leading dimensions."""
        return self.y.shape[:-1]

    @property
    def upper_size(self) -> int:
        """Number p = q of upper variables."""
        return int(self.X.shape[-1])

    @property
    def lower_size(self) -> int:
        """Number q of lower variables."""
        return int(self.X.shape[-1])

    @property
    def terms(self) -> int:
        """Length of the longest inner product."""
        return max(int(self.X.shape[-2]), self.lower_size, int(self.upper.t.shape[-1]))

    def lower_gradient(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """X'(X phi - y) + e^theta phi."""
        misfit = matvec(self.X, phi) - self.y
        return np.asarray(matvec(transposed(self.X), misfit) + np.exp(theta) * phi)

    def hessian(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q q"]:
        """H = X'X + diag(e^theta)."""
        return np.asarray(transposed(self.X) @ self.X + np.diag(np.exp(theta)))

    def cross(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch p q"]:
        """J = diag(e^theta phi)."""
        return np.asarray((np.exp(theta) * phi)[..., None] * np.eye(self.lower_size))

    def upper_gradients(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> tuple[Inexact[np.ndarray, "*batch p"], Inexact[np.ndarray, "*batch q"]]:
        """Gradients of f in theta and in phi."""
        return self.upper.gradients(theta, phi)

    def minimiser(self, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch q"]:
        """phi* = (X'X + diag(e^theta))^{-1} X'y."""
        return solve(self.hessian(theta, self.X[..., 0, :]), matvec(transposed(self.X), self.y))

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> Magnitudes:
        """Norms of the terms of the gradients."""
        X = spectral_norm(self.X)
        lower = X * (X * norm(phi) + norm(self.y)) + np.exp(theta).max() * norm(phi)
        in_theta, in_phi = self.upper.magnitudes(theta, phi)
        return Magnitudes(lower=np.asarray(lower), upper_theta=in_theta, upper_phi=in_phi)

    def constants(
        self, theta: Float64[np.ndarray, " p"], *, radius: float = 0.0
    ) -> FamilyConstants:
        """Constants on the ball: |J(phi)| = max_j e^theta_j |phi_j| grows with phi."""
        phi = self.minimiser(theta)
        H = self.hessian(theta, phi)
        spectrum = np.linalg.eigvalsh(H)
        largest = np.full(self.batch, np.exp(theta).max())
        return FamilyConstants(
            strong_convexity=np.asarray(spectrum[..., 0]),
            smoothness=np.asarray(spectrum[..., -1]),
            L12=np.asarray((np.exp(theta) * (np.abs(phi) + radius)).max(-1)),
            lam12=self.upper.lam12,
            lam22=self.upper.lam22,
            rH=np.zeros(self.batch),
            rJ=largest,
            C_f=np.full(self.batch, np.inf),
            V=norm(solve(H, self.upper_gradients(theta, phi)[1])),
        )

    def bilevel(self, dtype: DType | None = None, device: Device = "cpu") -> TensorBilevel:
        """Torch objectives."""
        from hypergrad import Bilevel

        X, y = tensor(self.X, dtype, device), tensor(self.y, dtype, device)

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            misfit = (X @ phi[..., None])[..., 0] - y
            return 0.5 * (misfit**2).sum(-1) + 0.5 * (theta.exp() * phi**2).sum(-1)

        return Bilevel(upper=self.upper.objective(dtype, device), lower=lower)
