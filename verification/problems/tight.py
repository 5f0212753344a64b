"""Upper objectives whose gradient norms under gradient descent are known to the digit.

theory.md, section 4. Any Psi becomes a bilevel problem with F = Psi: with A^{-1} B = V, V'V = I,
the minimiser of g = 1/2 phi' A phi - phi' B theta is V theta, and f = Psi(W' phi) with W'V = I. W
is not V: with W = V and p = 1 a single step of conjugate gradients would already be exact.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64


@runtime_checkable
class Psi(Protocol):
    """An upper objective of p variables."""

    def value(self, u: Float[torch.Tensor, " p"]) -> Float[torch.Tensor, ""]:
        """For autograd."""
        ...

    def gradient(self, u: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
        """The same function's gradient, by hand."""
        ...


@dataclass(frozen=True)
class Sawtooth:
    """Psi' = 1 - dist(u, Z) for u >= 0, and 1 + u below: L = 1, p = 1.

    From u = T gradient descent with eta = 1 visits T, T - 1, ..., 0, where the gradient is 1:
    with Delta = (3T + 2)/4 the bound 4 L Delta/(3T + 2) on the least squared gradient is attained.
    """

    def value(self, u: Float[torch.Tensor, " p"]) -> Float[torch.Tensor, ""]:
        """Value u - n/4 - (area of the tooth so far) above n = floor u >= 0; a parabola below 0."""
        whole = u.detach().floor()
        s = u - whole
        tooth = torch.where(s <= 0.5, s**2 / 2, 0.25 - (1 - s) ** 2 / 2)
        return torch.where(u >= 0, u - whole / 4 - tooth, u + u**2 / 2).sum()

    def gradient(self, u: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
        """1 - dist(u, Z), or 1 + u."""
        return np.asarray(np.where(u >= 0, 1 - np.abs(u - np.round(u)), 1 + u))

    @staticmethod
    def gap(steps: int) -> float:
        """Delta = Psi(T) - min Psi."""
        return (3 * steps + 2) / 4


@dataclass(frozen=True)
class Huber:
    """L u^2/2 up to |u| = w/L, and slope w beyond; p = 1.

    From u = (T + 1) w/L, descent with eta = 1/L moves by w/L a step and reaches a gradient below w
    at step T + 1 exactly; Delta = w^2 (T + 1/2)/L.

    Attributes:
        L: curvature.
        w: largest slope.
    """

    L: float
    w: float

    def value(self, u: Float[torch.Tensor, " p"]) -> Float[torch.Tensor, ""]:
        """The Huber function."""
        outside = self.w * u.abs() - self.w**2 / (2 * self.L)
        return torch.where(u.abs() <= self.w / self.L, self.L * u**2 / 2, outside).sum()

    def gradient(self, u: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
        """L u, cut off at w."""
        return np.asarray(np.clip(self.L * u, -self.w, self.w))


@dataclass(frozen=True)
class Quadratic:
    """u' H u/2 - g' u.

    Attributes:
        H: symmetric, positive semidefinite.
        g: minus the gradient at 0.
    """

    H: Float64[np.ndarray, "p p"]
    g: Float64[np.ndarray, " p"]

    def value(self, u: Float[torch.Tensor, " p"]) -> Float[torch.Tensor, ""]:
        """The quadratic."""
        return 0.5 * u @ torch.tensor(self.H) @ u - torch.tensor(self.g) @ u

    def gradient(self, u: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
        """H u - g."""
        return np.asarray(self.H @ u - self.g)


@dataclass(frozen=True)
class LogUniform:
    """d eigenvalues h_j, log-uniform over [L/R, L], each with the share Delta/d of the energy.

    |grad F(theta_T)|^2 = (2 Delta/d) sum h_j (1 - h_j/L)^(2T) at eta = 1/L: like 1/T over R.

    Attributes:
        size: d.
        L: largest eigenvalue.
        ratio: R.
        gap: Delta.
    """

    size: int
    L: float
    ratio: float
    gap: float

    @property
    def spectrum(self) -> Float64[np.ndarray, " d"]:
        """h_j."""
        return np.asarray(self.L * self.ratio ** -np.linspace(0, 1, self.size))

    @property
    def psi(self) -> Quadratic:
        """In the basis of its eigenvectors."""
        return Quadratic(np.diag(self.spectrum), np.zeros(self.size))

    @property
    def start(self) -> Float64[np.ndarray, " d"]:
        """theta_0 of equal energies: h_j theta_j^2/2 = Delta/d."""
        return np.asarray(np.sqrt(2 * self.gap / (self.size * self.spectrum)))

    def squared_gradient(self, steps: int) -> float:
        """|grad F(theta_T)|^2 in closed form."""
        h = self.spectrum
        return float(2 * self.gap / self.size * (h * (1 - h / self.L) ** (2 * steps)).sum())


def horizon_quadratic(steps: int, L: float) -> tuple[Quadratic, float]:
    """The quadratic of one eigenvalue L/(2T + 1), and its |grad F(theta_T)|^2/(2 L Delta)."""
    h = L / (2 * steps + 1)
    return Quadratic(np.array([[h]]), np.zeros(1)), (1 - h / L) ** (2 * steps) * h / L


def nesterov_chain(size: int, L: float) -> Quadratic:
    """Nesterov's worst function for methods of first order, truncated: a control, not tight."""
    H = L / 4 * (2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1))
    g = np.zeros(size)
    g[0] = L / 4
    return Quadratic(H, g)


def chain_squared_gradient(steps: int, L: float) -> float:
    """|grad F(theta_T)|^2 of the chain from 0, eta = 1/L, for sizes above T.

    The gradient is (I - H/L)^T g, and I - H/L = (2 I + S + S')/4 with S the shift: e_1'(2 + S +
    S')^n e_1 counts Motzkin paths with two colours of level steps, the Catalan number C_{n+1}. So
    (L/4)^2 C_{2T+1}/4^(2T) ~ (L^2/4) (2T)^(-3/2)/sqrt(pi): slope -3/2.
    """
    n = 2 * steps
    catalan = math.comb(2 * n + 2, n + 1) // (n + 2)
    return (L / 4) ** 2 * float(Fraction(catalan, 4**n))


@dataclass(frozen=True)
class FatTail:
    """The fixed non-convex (1 + u^2)^(-p/2), 0 < p <= 2: L = p, slope -(2p + 2)/(p + 2).

    Attributes:
        p: exponent with which the tail falls.
    """

    p: float

    def value(self, u: Float[torch.Tensor, " n"]) -> Float[torch.Tensor, ""]:
        """The function."""
        return ((1 + u**2) ** (-self.p / 2)).sum()

    def gradient(self, u: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """-p u (1 + u^2)^(-p/2 - 1)."""
        return np.asarray(-self.p * u * (1 + u**2) ** (-self.p / 2 - 1))

    def potential(self, u: Float64[np.ndarray, " n"]) -> float:
        """(1 + u^2)^((p + 2)/2), which grows linearly along descent."""
        return float((1 + u[0] ** 2) ** ((self.p + 2) / 2))

    def growth(self, start: float, eta: float) -> tuple[float, float]:
        """Least and largest growth of the potential in one step from any u >= start > 0.

        Proof in theory.md, section 4; eta <= 1/p.
        """
        p, square = self.p, start**2
        least = (p + 2) * p * eta
        rho = (1 + square) ** (-p / 2 - 1)
        return least * square / (1 + square), least * (1 + (p + 1) / 2 * (1 + rho) ** p * rho)


@dataclass(frozen=True)
class Embedded:
    """A bilevel problem with F = Psi.

    Attributes:
        psi: the upper objective.
        A: Hessian of the lower level.
        V: phi* = V theta.
        W: f = Psi(W' phi).
    """

    psi: Psi
    A: Float64[np.ndarray, "q q"]
    V: Float64[np.ndarray, "q p"]
    W: Float64[np.ndarray, "q p"]

    def lower(
        self, theta: Float[torch.Tensor, " p"], phi: Float[torch.Tensor, " q"]
    ) -> Float[torch.Tensor, ""]:
        """1/2 phi' A phi - phi' A V theta."""
        return 0.5 * phi @ torch.tensor(self.A) @ phi - phi @ (
            torch.tensor(self.A @ self.V) @ theta
        )

    def upper(
        self, theta: Float[torch.Tensor, " p"], phi: Float[torch.Tensor, " q"]
    ) -> Float[torch.Tensor, ""]:
        """Psi(W' phi)."""
        return self.psi.value(torch.tensor(self.W).T @ phi)


# of A in `embedded`: conjugate gradients end after two steps, descent contracts by 0.25/2.25 = 1/9
CURVATURES = (1.0, 1.25)


def embedded(psi: Psi, size: int, rng: np.random.Generator) -> Embedded:
    """Psi of p variables on a random A with two eigenvalues; q = p + 2."""
    q = size + 2
    basis = np.linalg.qr(rng.standard_normal((q, q)))[0]
    curvature = np.where(np.arange(q) % 2, CURVATURES[1], CURVATURES[0])
    A = basis @ (curvature[:, None] * basis.T)
    V = np.linalg.qr(rng.standard_normal((q, size)))[0]
    aside = rng.standard_normal((q, size)) / math.sqrt(q)
    W = V + aside - V @ (V.T @ aside)
    return Embedded(psi=psi, A=(A + A.T) / 2, V=V, W=W)


def dyadic(psi: Psi) -> Embedded:
    """Psi of one variable on A = 2 I, in numbers on which float64 makes no rounding error."""
    V, W = np.array([[1.0], [0.0]]), np.array([[1.0], [1.0]])
    return Embedded(psi=psi, A=2 * np.eye(2), V=V, W=W)
