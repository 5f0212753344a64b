"""LC: log-cosh terms on both levels. Every assumption of the theory holds globally, with rho > 0.

H and J depend on phi here, so that it matters where they are evaluated.
"""

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
from verification.problems.newton import damped_newton

# max |tanh''|: (tanh x)'' = -2 t (1 - t^2) with t = tanh x is extremal at t^2 = 1/3.
TANH_CURVATURE = 4 / (3 * math.sqrt(3))


def logcosh(x: Tensor) -> Tensor:
    """Log cosh x = softplus(2x) - x - log 2: smooth at 0, where |x| + softplus(-2|x|) is not.

    Beyond the threshold softplus is taken as linear; e^-40 is below the rounding of float64.
    """
    import torch

    return torch.nn.functional.softplus(2 * x, threshold=40.0) - x - math.log(2)


@dataclass(frozen=True)
class LC:
    """Log-cosh on both levels (theory.md, section 1).

    g = 1/2 phi' A phi - phi' (B theta + c) + a sum logcosh(phi - W theta),
    f = w sum logcosh(P phi + R theta - t) + r/2 |theta|^2.

    Attributes:
        A: quadratic part of the lower level, symmetric positive definite.
        B: coupling of phi and theta.
        c: linear term.
        a: weight of the lower log-cosh, non-negative.
        W: map from theta to the centre of the lower log-cosh.
        P: design of the upper level in phi.
        R: its design in theta.
        t: its targets.
        w: its weight, non-negative.
        r: weight of |theta|^2 / 2.
    """

    A: Float64[np.ndarray, "*batch q q"]
    B: Float64[np.ndarray, "*batch q p"]
    c: Float64[np.ndarray, "*batch q"]
    a: Float64[np.ndarray, "*batch"]
    W: Float64[np.ndarray, "*batch q p"]
    P: Float64[np.ndarray, "*batch m q"]
    R: Float64[np.ndarray, "*batch m p"]
    t: Float64[np.ndarray, "*batch m"]
    w: Float64[np.ndarray, "*batch"]
    r: Float64[np.ndarray, "*batch"]

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
        return max(self.upper_size, self.lower_size, int(self.t.shape[-1]))

    def lower_gradient(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """A phi - B theta - c + a tanh(phi - W theta)."""
        bend = self.a[..., None] * np.tanh(phi - self.W @ theta)
        return np.asarray(matvec(self.A, phi) - self.B @ theta - self.c + bend)

    def _curvature(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """A sech^2(phi - W theta): what log-cosh adds to the diagonal of H."""
        return np.asarray(self.a[..., None] * (1 - np.tanh(phi - self.W @ theta) ** 2))

    def hessian(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q q"]:
        """H = A + a diag(sech^2(phi - W theta))."""
        bend = self._curvature(theta, phi)
        return np.asarray(self.A + bend[..., None] * np.eye(self.lower_size))

    def cross(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch p q"]:
        """J = -(B + a diag(sech^2(phi - W theta)) W)'."""
        return -transposed(self.B + self._curvature(theta, phi)[..., None] * self.W)

    def upper_gradients(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> tuple[Inexact[np.ndarray, "*batch p"], Inexact[np.ndarray, "*batch q"]]:
        """Gradients of f in theta and in phi."""
        slope = self.w[..., None] * np.tanh(matvec(self.P, phi) + self.R @ theta - self.t)
        in_theta = matvec(transposed(self.R), slope) + self.r[..., None] * theta
        return np.asarray(in_theta), matvec(transposed(self.P), slope)

    def minimiser(self, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch q"]:
        """phi* by damped Newton, from the minimiser of the quadratic part."""
        return damped_newton(
            gradient=lambda phi: self.lower_gradient(theta, phi),
            hessian=lambda phi: self.hessian(theta, phi),
            magnitude=lambda phi: self.magnitudes(theta, phi).lower,
            start=solve(self.A, self.B @ theta + self.c),
            terms=self.terms,
        )

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> Magnitudes:
        """Norms of the terms; |tanh| <= 1, and its argument's rounding passes at slope <= 1."""
        size = np.linalg.norm(theta)
        A, B, W = spectral_norm(self.A), spectral_norm(self.B), spectral_norm(self.W)
        P, R = spectral_norm(self.P), spectral_norm(self.R)
        bend = self.a * (math.sqrt(self.lower_size) + norm(phi) + W * size)
        lower = A * norm(phi) + B * size + norm(self.c) + bend
        rows = math.sqrt(self.t.shape[-1])
        slope = self.w * (rows + P * norm(phi) + R * size + norm(self.t))
        return Magnitudes(
            lower=np.asarray(lower),
            upper_theta=np.asarray(R * slope + self.r * size),
            upper_phi=np.asarray(P * slope),
        )

    def constants(
        self, theta: Float64[np.ndarray, " p"], *, radius: float = 0.0
    ) -> FamilyConstants:
        """Global constants (the radius does not matter); only V belongs to this theta."""
        spectrum = np.linalg.eigvalsh(self.A)
        W, P, R = spectral_norm(self.W), spectral_norm(self.P), spectral_norm(self.R)
        phi = self.minimiser(theta)
        return FamilyConstants(
            strong_convexity=np.asarray(spectrum[..., 0]),
            smoothness=np.asarray(spectrum[..., -1] + self.a),
            L12=np.asarray(spectral_norm(self.B) + self.a * W),
            lam12=np.asarray(self.w * P * R),
            lam22=np.asarray(self.w * P**2),
            rH=np.asarray(self.a * TANH_CURVATURE),
            rJ=np.asarray(self.a * TANH_CURVATURE * W),
            C_f=np.asarray(self.w * P * math.sqrt(self.t.shape[-1])),
            V=norm(solve(self.hessian(theta, phi), self.upper_gradients(theta, phi)[1])),
        )

    def bilevel(self, dtype: DType | None = None, device: Device = "cpu") -> TensorBilevel:
        """Torch objectives."""
        from hypergrad import Bilevel

        A, B = tensor(self.A, dtype, device), tensor(self.B, dtype, device)
        c, a = tensor(self.c, dtype, device), tensor(self.a, dtype, device)
        W, P = tensor(self.W, dtype, device), tensor(self.P, dtype, device)
        R, t = tensor(self.R, dtype, device), tensor(self.t, dtype, device)
        w, r = tensor(self.w, dtype, device), tensor(self.r, dtype, device)

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            quadratic = 0.5 * (phi * (A @ phi[..., None])[..., 0]).sum(-1)
            bend = a * logcosh(phi - W @ theta).sum(-1)
            return quadratic - (phi * (B @ theta + c)).sum(-1) + bend

        def upper(theta: Tensor, phi: Tensor) -> Tensor:
            misfit = (P @ phi[..., None])[..., 0] + R @ theta - t
            return w * logcosh(misfit).sum(-1) + 0.5 * r * (theta**2).sum(-1)

        return Bilevel(upper=upper, lower=lower)
