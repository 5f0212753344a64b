"""Log: logistic regression whose ridge penalties are e^theta. H and J both depend on phi."""

import math
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
from verification.problems.newton import damped_newton


@dataclass(frozen=True)
class Log:
    """g = mean_i log(1 + e^{-z_i}) + 1/2 phi' diag(e^theta) phi, z = X phi, f least squares; p = q.

    The labels are in the rows of X, each example times its label +-1 (theory.md, section 1).

    Attributes:
        X: n signed examples of the lower level.
        upper: the upper level.
    """

    X: Float64[np.ndarray, "*batch n q"]
    upper: LeastSquares

    @property
    def batch(self) -> Batch:
        """Leading dimensions."""
        return self.X.shape[:-2]

    @property
    def upper_size(self) -> int:
        """Number p = q of upper variables."""
        return int(self.X.shape[-1])

    @property
    def lower_size(self) -> int:
        """Number q of lower variables."""
        return int(self.X.shape[-1])

    @property
    def examples(self) -> int:
        """Number n of examples of each task."""
        return int(self.X.shape[-2])

    @property
    def terms(self) -> int:
        """Length of the longest inner product."""
        return max(self.examples, self.lower_size, int(self.upper.t.shape[-1]))

    def _half_tanh(self, phi: Inexact[np.ndarray, "*batch q"]) -> Inexact[np.ndarray, "*batch n"]:
        """tanh(z/2), of which every derivative of the logistic loss is a polynomial."""
        return np.asarray(np.tanh(matvec(self.X, phi) / 2))

    def lower_gradient(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """-X' sigmoid(-z)/n + e^theta phi, with sigmoid(-z) = (1 - tanh(z/2))/2."""
        pull = (1 - self._half_tanh(phi)) / (2 * self.examples)
        return np.asarray(np.exp(theta) * phi - matvec(transposed(self.X), pull))

    def hessian(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q q"]:
        """H = X' diag(sigmoid'(z)) X/n + diag(e^theta), with sigmoid'(z) = (1 - tanh^2(z/2))/4."""
        weight = (1 - self._half_tanh(phi) ** 2) / (4 * self.examples)
        return np.asarray(
            transposed(self.X) @ (weight[..., None] * self.X) + np.diag(np.exp(theta))
        )

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
        """phi* by damped Newton from 0."""
        return damped_newton(
            gradient=lambda phi: self.lower_gradient(theta, phi),
            hessian=lambda phi: self.hessian(theta, phi),
            magnitude=lambda phi: self.magnitudes(theta, phi).lower,
            start=np.zeros((*self.batch, self.lower_size)),
            terms=self.terms,
        )

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> Magnitudes:
        """Norms of the terms; 0 <= sigmoid <= 1, and its argument's rounding passes at <= 1/4."""
        X, n = spectral_norm(self.X), self.examples
        pull = (math.sqrt(n) + X * norm(phi) / 4) / n
        in_theta, in_phi = self.upper.magnitudes(theta, phi)
        return Magnitudes(
            lower=np.asarray(X * pull + np.exp(theta).max() * norm(phi)),
            upper_theta=in_theta,
            upper_phi=in_phi,
        )

    def constants(
        self, theta: Float64[np.ndarray, " p"], *, radius: float = 0.0
    ) -> FamilyConstants:
        """Constants on the ball: |J(phi)| = max_j e^theta_j |phi_j| grows with phi.

        max |sigmoid''| = 1/(6 sqrt 3), hence rH = |X|^2 max_i |x_i| / (6 sqrt 3 n).
        """
        phi = self.minimiser(theta)
        X, penalty = spectral_norm(self.X), np.exp(theta)
        longest = norm(self.X).max(-1)
        in_phi = self.upper_gradients(theta, phi)[1]
        return FamilyConstants(
            strong_convexity=np.full(self.batch, penalty.min()),
            smoothness=np.asarray(X**2 / (4 * self.examples) + penalty.max()),
            L12=np.asarray((penalty * (np.abs(phi) + radius)).max(-1)),
            lam12=self.upper.lam12,
            lam22=self.upper.lam22,
            rH=np.asarray(X**2 * longest / (6 * math.sqrt(3) * self.examples)),
            rJ=np.full(self.batch, penalty.max()),
            C_f=np.full(self.batch, np.inf),
            V=norm(solve(self.hessian(theta, phi), in_phi)),
        )

    def bilevel(self, dtype: DType | None = None, device: Device = "cpu") -> TensorBilevel:
        """Torch objectives."""
        import torch

        from hypergrad import Bilevel

        X = tensor(self.X, dtype, device)

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            margins = (X @ phi[..., None])[..., 0]
            # beyond the threshold softplus is taken as linear; e^-40 is below float64's rounding
            loss = torch.nn.functional.softplus(-margins, threshold=40.0).mean(-1)
            return loss + 0.5 * (theta.exp() * phi**2).sum(-1)

        return Bilevel(upper=self.upper.objective(dtype, device), lower=lower)
