"""Tolerances of every comparison, derived: the rounding error that a hypergradient may have.

All bounds are of first order in the unit roundoff u: products of two rounding errors are left out,
and so is the change of H and J over a distance of rounding size squared. They are ours, not the
paper's.

Solved to round-off (theory.md, section 6, Theorem FP, extended to rho > 0). Let every gradient be
evaluated with an error of u times the norms of its terms (`Magnitudes`), up to a modest multiple
c. A lower solver that stops when rounding stops it has |grad_phi g| <= c u lower, so that

    |d phi| <= c u lower/mu = c u kappa Phi,                   Phi = lower/L  (>= |phi*|).

The adjoint H v = b is solved with a backward error c u L, at a perturbed point:

    H d v = d b - dH v*,   |d b| <= lam22 |d phi| + c u upper_phi,   |dH| <= rH |d phi| + c u L.

h = grad_theta f - J v moves by (lam12 + rJ |v*|) |d phi| + |J H^{-1}| |H d v| + c u upper_theta.
With s = |J H^{-1}| (<= L12/mu), this is

    |d h| <= c u kappa Xi,   kappa Xi = c1 kappa Phi + s (L |v*| + upper_phi) + upper_theta,

c1 = lam12 + rJ |v*| + s (lam22 + rH |v*|), as in theory.md, section 2. To first order mu, L, s are
those of H and J at the minimiser itself; global constants would do and be far larger where
nonlinearities saturate. For Quad with s = L12/mu this is the Xi of section 6, but for Phi in place
of |phi*|: forming B theta + c costs rounding of its terms, which matters where the two cancel.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from verification.oracles.algorithm1 import krylov_basis
from verification.problems import Family, Quad
from verification.problems.base import norm, spectral_norm, transposed

# theory.md, section 6: recommended tolerance 1e2 u kappa Xi, where the largest C measured is 0.81.
RECOMMENDED = 1e2


def unit_roundoff(dtype: np.dtype | type[np.floating] = np.float64) -> float:
    """u, half the machine epsilon."""
    return float(np.finfo(dtype).eps) / 2


def error_scale(family: Family, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch"]:
    """Kappa Xi of each task: rounding moves an exact solve's hypergradient by C u of this."""
    phi = family.minimiser(theta)
    H, J = family.hessian(theta, phi), family.cross(theta, phi)
    spectrum = np.linalg.eigvalsh(H)
    mu, L = spectrum[..., 0], spectrum[..., -1]
    s = spectral_norm(np.linalg.solve(H, transposed(J)))
    k = family.constants(theta)
    at = family.magnitudes(theta, phi)
    c1 = k.lam12 + k.rJ * k.V + s * (k.lam22 + k.rH * k.V)
    return np.asarray(c1 * at.lower / mu + s * (L * k.V + at.upper_phi) + at.upper_theta)


def tolerance(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    dtype: np.dtype | type[np.floating] = np.float64,
) -> float:
    """1e2 u kappa Xi, averaged over the tasks like the hypergradient itself.

    The error of a mean is at most the mean of the errors; rounding of the sum adds at most
    log2(tasks) u times the mean of |h_i| <= L12 |v*| + upper_theta <= s L |v*| + upper_theta,
    which kappa Xi contains.
    """
    return RECOMMENDED * unit_roundoff(dtype) * float(error_scale(family, theta).mean())


@dataclass(frozen=True)
class Rounding:
    """Largest distance by rounding of two implementations of K descent and N CG steps, by task.

    Attributes:
        phi: bound on the distance of two phi_K.
        v: bound on the distance of two v_N.
        tasks: bound on the distance of two h_i.
    """

    phi: Float64[np.ndarray, "*batch"]
    v: Float64[np.ndarray, "*batch"]
    tasks: Float64[np.ndarray, "*batch"]

    @property
    def mean(self) -> float:
        """Bound on the distance of two means over the tasks."""
        return float(self.tasks.mean())


def finite_steps_tolerance(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi0: Float64[np.ndarray, "*batch q"],
    v0: Float64[np.ndarray, "*batch q"],
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> Rounding:
    """A running error bound of Algorithm 1 with finite K and N; needs alpha <= 2/L.

    An inner product of n terms rounds by n u, a product with an n x n matrix by n^{3/2} u of the
    norms (Higham 2002, section 3.5). gamma is that, with 4 further operations around each product,
    and twice, because both sides of a comparison round.

    Descent: a step rounds by gamma alpha lower + 2 u |phi| and contracts what came before. The
    matrix power, phi* + W (phi_0 - phi*), rounds as much again: its phi* solves a system with
    residual gamma lower, and (I - W) A^{-1} = sum_{k<K} alpha (I - alpha A)^k has norm at most
    K alpha, so that this is not magnified by kappa.
    """
    gamma = 2 * (family.terms + 4) ** 1.5 * unit_roundoff()
    phi = phi0
    d_phi = np.zeros(family.batch)
    centre = family.minimiser(theta) if isinstance(family, Quad) else None
    for _ in range(steps):
        for point in [phi] if centre is None else [phi, centre]:
            gradient = step_size * family.magnitudes(theta, point).lower
            d_phi = d_phi + gamma * gradient + 4 * unit_roundoff() * norm(point)
        phi = phi - step_size * family.lower_gradient(theta, phi)

    k = family.constants(theta)
    at = family.magnitudes(theta, phi)
    H, J = family.hessian(theta, phi), family.cross(theta, phi)
    b = family.upper_gradients(theta, phi)[1]
    d_b = k.lam22 * d_phi + gamma * at.upper_phi
    d_H = gamma * k.smoothness + k.rH * d_phi
    v, d_v = np.empty(family.batch), np.empty(family.batch)
    for task in np.ndindex(*family.batch):
        v[task], d_v[task] = _krylov_rounding(
            H[task],
            b[task],
            v0[task],
            max_steps,
            d_H=float(d_H[task]),
            d_b=float(d_b[task]),
            mu=float(k.strong_convexity[task]),
            L=float(k.smoothness[task]),
            gamma=gamma,
        )
    L12 = spectral_norm(J)
    through_phi = (k.lam12 + k.rJ * v) * d_phi
    d_h = through_phi + L12 * d_v + gamma * (at.upper_theta + L12 * v)
    return Rounding(phi=np.asarray(d_phi), v=d_v, tasks=np.asarray(d_h))


def _krylov_rounding(
    H: Float64[np.ndarray, "q q"],
    b: Float64[np.ndarray, " q"],
    v0: Float64[np.ndarray, " q"],
    steps: int,
    *,
    d_H: float,
    d_b: float,
    mu: float,
    L: float,
    gamma: float,
) -> tuple[float, float]:
    """Bounds on |v_N| and on its error: CG is Galerkin's method on a Krylov space, both perturbed.

    With V = (q_1, ..., q_N) orthonormal, T = V'HV, T y = V'r_0, s = V y and r_N = r_0 - H s, which
    is orthogonal to V: perturb H and r_0 within the space, and V to V + dV, dV orthogonal to V
    (what stays inside the span changes nothing). Then

        d s = V T^{-1} V'(d r_0 - dH s) + (I - V T^{-1} V'H) dV y + V T^{-1} dV' r_N.

    T has its spectrum in [mu, L] (Cauchy interlacing); the second factor is a projection in the
    energy inner product, of norm at most sqrt(kappa). The columns obey the Lanczos recurrence
    beta_j q_{j+1} = (H - alpha_j) q_j - beta_{j-1} q_{j-1}: what is orthogonal to q_1..q_j comes
    through it, what is not comes from keeping q_{j+1} orthogonal to the others. So |d q_j| <= e_j,

        e_1 = |d r_0|/|r_0| + gamma,
        e_{j+1} = ((L - mu) e_j + beta_{j-1} e_{j-1} + dH)/beta_j + e_j.

    Where beta_j is small, q_{j+1} is poor, but y_{j+1} is proportional to beta_j: the products
    e_j y_j stay bounded, and it is they that enter.
    """
    r0 = b - H @ v0
    size = float(np.linalg.norm(r0))
    d_r0 = d_b + d_H * float(np.linalg.norm(v0)) + gamma * float(np.linalg.norm(b))
    V = krylov_basis(H, r0, steps)
    dimension = V.shape[-1]
    length = float(np.linalg.norm(v0))
    if dimension == 0:
        return length, d_r0 / mu
    T = V.T @ H @ V
    y = np.linalg.solve(T, size * np.eye(dimension)[0])
    beta = np.abs(np.diag(T, -1))
    e = np.zeros(dimension)
    e[0] = d_r0 / size + gamma
    for j in range(1, dimension):
        before = beta[j - 2] * e[j - 2] if j > 1 else 0.0
        e[j] = ((L - mu) * e[j - 1] + before + d_H) / beta[j - 1] + e[j - 1]
    s = V @ y
    # L D L' without pivoting is how CG solves with T: backward stable, another gamma L
    within = (d_r0 + (d_H + gamma * L) * float(np.linalg.norm(s))) / mu
    turned = np.sqrt(L / mu) * float(e @ np.abs(y))
    residual = float(np.linalg.norm(r0 - H @ s))
    if dimension < steps:
        # the Krylov space ended: r_N is rounding, and further steps, in directions of rounding,
        # cannot raise the energy norm of the error
        turned += np.sqrt(L / mu) * residual / mu
    turned += float(np.linalg.norm(e)) * residual / mu
    length += float(np.linalg.norm(s))
    return length, within + turned + gamma * length
