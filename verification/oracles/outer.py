"""The outer problem in float64: F itself, its smoothness, and Algorithm 1 as a map of theta.

theory.md, sections 1 and 3. Constants are this project's own, not the paper's.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from verification.oracles.exact import mean_over_tasks
from verification.problems import LC, Family, Quad
from verification.problems.base import matvec, norm, solve, spectral_norm, transposed


def value(family: Family, theta: Float64[np.ndarray, " p"]) -> float:
    """F(theta), the mean of f_i(theta, phi_i*(theta)) over the tasks."""
    phi = family.minimiser(theta)
    square = float(theta @ theta)
    if isinstance(family, Quad):
        up = family.upper
        misfit = matvec(up.P, phi) - up.t
        coupled = (matvec(up.Q, phi) * theta).sum(-1)
        return float((0.5 * (misfit**2).sum(-1) + coupled + 0.5 * up.r * square).mean())
    if isinstance(family, LC):
        misfit = matvec(family.P, phi) + family.R @ theta - family.t
        logcosh = np.logaddexp(misfit, -misfit) - math.log(2)
        return float((family.w * logcosh.sum(-1) + 0.5 * family.r * square).mean())
    raise TypeError(f"value() got {type(family).__name__}; it knows Quad and LC.")


def value_scale(family: Family, theta: Float64[np.ndarray, " p"]) -> float:
    """Size of the terms that F is the sum of: what rounding of F is relative to."""
    phi = family.minimiser(theta)
    at = family.magnitudes(theta, phi)
    size = at.upper_theta * np.linalg.norm(theta) + at.upper_phi * norm(phi)
    if isinstance(family, Quad):
        size = size + (family.upper.t**2).sum(-1)
    if isinstance(family, LC):
        size = size + family.w * np.abs(family.t).sum(-1)
    return float(np.mean(size))


@dataclass(frozen=True)
class OuterConstants:
    """Constants of section 3's theorems beside those of section 2, for the worst task.

    Attributes:
        smoothness: L_F, a Lipschitz constant of grad F.
        A: c1 with the global V.
        s: L12/mu.
        l_v: Lipschitz constant of v*(theta).
        L12: bound on |J|.
        mu: least curvature of the lower level.
        L: largest.
    """

    smoothness: float
    A: float
    s: float
    l_v: float
    L12: float
    mu: float
    L: float

    def descent_rate(self, step_size: float) -> float:
        """q_a, the contraction of one descent step."""
        return max(abs(1 - step_size * self.mu), abs(1 - step_size * self.L))

    def warm_counts(self, eta: float, step_size: float) -> tuple[int, int]:
        """K0 and N0 of Theorem 2."""
        root = math.sqrt(self.L / self.mu)
        q, tau = self.descent_rate(step_size), (root - 1) / (root + 1)
        K = math.log(max(9, 18 * eta * self.A * self.s)) / -math.log(q)
        N = math.log(2 * root * max(4, 8 * eta * self.L12 * self.l_v)) / -math.log(tau)
        return math.ceil(K), math.ceil(N)

    def warm_rates(self, steps: int, max_steps: int, step_size: float) -> tuple[float, float]:
        """Return r and w of the warm-start lemma, z_t <= r z_{t-1} + w |theta_t - theta_{t-1}|.

        With beta = min(1, sqrt(kappa) ch_N): r = max((2 + beta) q_a^K, beta) and
        w = (2 + beta) A s q_a^K + L12 beta l_v.
        """
        root = math.sqrt(self.L / self.mu)
        power = ((root - 1) / (root + 1)) ** max_steps
        beta = min(1.0, root * 2 * power / (1 + power**2))
        descent = (2 + beta) * self.descent_rate(step_size) ** steps
        return max(descent, beta), descent * self.A * self.s + self.L12 * beta * self.l_v


def outer_constants(family: Quad | LC, theta: Float64[np.ndarray, " p"]) -> OuterConstants:
    """Global constants; for Quad none of them needs V, because rH = rJ = 0.

    L_F is the exact largest |eigenvalue| of H_F for Quad; for LC the blockwise bound of section 1,
    lam11 + 2 s lam12 + s^2 lam22 + V (rJ_t + s (rJ + rH_t) + s^2 rH), V = C_f/mu.
    """
    k = family.constants(theta)
    s = k.L12 / k.strong_convexity
    if isinstance(family, Quad):
        H = family.normal_equations()[0]
        L_F = float(np.abs(np.linalg.eigvalsh(H.reshape(-1, *H.shape[-2:]).mean(0))).max())
        A, moved = k.lam12 + s * k.lam22, k.lam12 + k.lam22 * s
    else:
        W, R = spectral_norm(family.W), spectral_norm(family.R)
        V = k.C_f / k.strong_convexity
        rH_t, rJ_t, lam11 = k.rH * W, k.rJ * W, family.w * R**2 + family.r
        bent = V * (rJ_t + s * (k.rJ + rH_t) + s**2 * k.rH)
        L_F = float((lam11 + 2 * s * k.lam12 + s**2 * k.lam22 + bent).max())
        A = k.lam12 + k.rJ * V + s * (k.lam22 + k.rH * V)
        moved = k.lam12 + k.lam22 * s + (rH_t + k.rH * s) * V
    return OuterConstants(
        smoothness=L_F,
        A=float(A.max()),
        s=float(s.max()),
        l_v=float((moved / k.strong_convexity).max()),
        L12=float(k.L12.max()),
        mu=float(k.strong_convexity.min()),
        L=float(k.smoothness.max()),
    )


@dataclass(frozen=True)
class Affine:
    """h_i(theta) = H_i theta - d_i for each task: Algorithm 1 on Quad with K steps and exact CG."""

    H: Float64[np.ndarray, "*batch p p"]
    d: Float64[np.ndarray, "*batch p"]

    @property
    def mean(self) -> tuple[Float64[np.ndarray, "p p"], Float64[np.ndarray, " p"]]:
        """The same of the mean over the tasks."""
        return self.H.reshape(-1, *self.H.shape[-2:]).mean(0), mean_over_tasks(self.d)

    @property
    def fixed_point(self) -> Float64[np.ndarray, " p"]:
        """Limit of upper descent with the mean: theta_K = H_K^{-1} d^K."""
        H, d = self.mean
        return np.asarray(np.linalg.solve(H, d))


def affine(
    family: Quad, phi0: Float64[np.ndarray, "*batch q"], *, steps: int, step_size: float
) -> Affine:
    """H_K and d^K of theory.md, section 1, with W = (I - alpha A)^K:

    C_K = C - W C,  d_K = d - W d + W phi_0,
    H_K = r I + Q C_K + C' (P'P C_K + Q'),  d^K = -(Q d_K + C' P' (P d_K - t)).
    """  # noqa: D415
    C, d = np.linalg.solve(family.A, family.B), solve(family.A, family.c)
    W = np.linalg.matrix_power(np.eye(family.lower_size) - step_size * family.A, steps)
    C_K, d_K = C - W @ C, d + matvec(W, phi0 - d)
    up = family.upper
    PC = up.P @ C
    H = up.r[..., None, None] * np.eye(family.upper_size) + up.Q @ C_K
    H = H + transposed(PC) @ up.P @ C_K + transposed(up.Q @ C)
    misfit = matvec(up.P, d_K) - up.t
    return Affine(H=H, d=-(matvec(up.Q, d_K) + matvec(transposed(PC), misfit)))
