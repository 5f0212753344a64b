"""Quad: a quadratic lower level. H is constant, so it cannot tell where H was evaluated."""

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
class Quad:
    """g = 1/2 phi' A phi - phi' (B theta + c), f least squares (theory.md, section 1).

    phi* = A^{-1}(B theta + c) and F is itself a quadratic in theta.

    Attributes:
        A: Hessian of the lower level, symmetric positive definite.
        B: coupling of phi and theta.
        c: linear term.
        upper: the upper level.
    """

    A: Float64[np.ndarray, "*batch q q"]
    B: Float64[np.ndarray, "*batch q p"]
    c: Float64[np.ndarray, "*batch q"]
    upper: LeastSquares

    @property
    def batch(self) -> Batch:
        """Leading dimensions."""
        return self.c.shape[:-1]

    @property
    def upper_size(self) -> int:
        """Number p of upper variables."""
        return int(self.B.shape[-1])

    @property
    def lower_size(self) -> int:
        """Number q of lower variables."""
        return int(self.c.shape[-1])

    @property
    def terms(self) -> int:
        """Length of the longest inner product."""
        return max(self.upper_size, self.lower_size, int(self.upper.t.shape[-1]))

    def lower_gradient(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """A phi - B theta - c."""
        return np.asarray(matvec(self.A, phi) - self.B @ theta - self.c)

    def hessian(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q q"]:
        """H = A."""
        return self.A

    def cross(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch p q"]:
        """J = -B'."""
        return -transposed(self.B)

    def upper_gradients(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> tuple[Inexact[np.ndarray, "*batch p"], Inexact[np.ndarray, "*batch q"]]:
        """Gradients of f in theta and in phi."""
        return self.upper.gradients(theta, phi)

    def minimiser(self, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch q"]:
        """phi* = A^{-1} (B theta + c)."""
        return solve(self.A, self.B @ theta + self.c)

    def normal_equations(
        self,
    ) -> tuple[Float64[np.ndarray, "*batch p p"], Float64[np.ndarray, "*batch p"]]:
        """H_F and d_F of each task, with grad F_i = H_F theta - d_F.

        With C = A^{-1} B and d = A^{-1} c, phi* = C theta + d, so that (theory.md, section 1)
        H_F = r I + Q C + (Q C)' + C' P' P C and d_F = -(Q d + C' P' (P d - t)).
        """
        C, d = np.linalg.solve(self.A, self.B), solve(self.A, self.c)
        P, Q, r = self.upper.P, self.upper.Q, self.upper.r
        QC, PC = Q @ C, P @ C
        H = r[..., None, None] * np.eye(self.upper_size) + QC + transposed(QC)
        H = H + transposed(PC) @ PC
        return H, -(matvec(Q, d) + matvec(transposed(PC), matvec(P, d) - self.upper.t))

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> Magnitudes:
        """Norms of the terms of the gradients."""
        linear = spectral_norm(self.B) * np.linalg.norm(theta) + norm(self.c)
        in_theta, in_phi = self.upper.magnitudes(theta, phi)
        lower = np.asarray(spectral_norm(self.A) * norm(phi) + linear)
        return Magnitudes(lower=lower, upper_theta=in_theta, upper_phi=in_phi)

    def constants(
        self, theta: Float64[np.ndarray, " p"], *, radius: float = 0.0
    ) -> FamilyConstants:
        """Constants of a quadratic: the radius does not matter, and C_f does not exist."""
        spectrum = np.linalg.eigvalsh(self.A)
        in_phi = self.upper_gradients(theta, self.minimiser(theta))[1]
        zero = np.zeros(self.batch)
        return FamilyConstants(
            strong_convexity=np.asarray(spectrum[..., 0]),
            smoothness=np.asarray(spectrum[..., -1]),
            L12=spectral_norm(self.B),
            lam12=self.upper.lam12,
            lam22=self.upper.lam22,
            rH=zero,
            rJ=zero,
            C_f=np.full(self.batch, np.inf),
            V=norm(solve(self.A, in_phi)),
        )

    def bilevel(self, dtype: DType | None = None, device: Device = "cpu") -> TensorBilevel:
        """Torch objectives."""
        from hypergrad import Bilevel

        A, B = tensor(self.A, dtype, device), tensor(self.B, dtype, device)
        c = tensor(self.c, dtype, device)

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            pull = B @ theta + c
            return 0.5 * (phi * (A @ phi[..., None])[..., 0]).sum(-1) - (phi * pull).sum(-1)

        return Bilevel(upper=self.upper.objective(dtype, device), lower=lower)
