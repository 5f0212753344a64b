"""Algorithm 1 stopped after K descent and N conjugate-gradient steps, without its recurrences.

h_i = grad_theta f(phi_K) - J(phi_K) v_N,  v_N = CG_N(H(phi_K), grad_phi f(phi_K), v_0)
                                                                        (theory.md, section 0)
For Quad, phi_K is a matrix power; v_N is the Galerkin solution on the Krylov space for every
family. Neither contains the recurrence it is the oracle for.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from verification.oracles.exact import mean_over_tasks
from verification.problems import Family, Quad
from verification.problems.base import matvec


@dataclass(frozen=True)
class FiniteSteps:
    """Point at which Algorithm 1 stops, for each task.

    Attributes:
        phi: phi_K.
        v: v_N.
        tasks: h_i.
    """

    phi: Float64[np.ndarray, "*batch q"]
    v: Float64[np.ndarray, "*batch q"]
    tasks: Float64[np.ndarray, "*batch p"]

    @property
    def mean(self) -> Float64[np.ndarray, " p"]:
        """The algorithm's answer: the mean of h_i over the tasks."""
        return mean_over_tasks(self.tasks)


def gd(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi0: Float64[np.ndarray, "*batch q"],
    *,
    steps: int,
    step_size: float,
) -> Float64[np.ndarray, "*batch q"]:
    """phi_K: phi* + (I - alpha A)^K (phi_0 - phi*) for Quad, plain iterations otherwise."""
    if isinstance(family, Quad):
        contraction = np.eye(family.lower_size) - step_size * family.A
        minimiser = family.minimiser(theta)
        power = np.linalg.matrix_power(contraction, steps)
        return np.asarray(minimiser + matvec(power, phi0 - minimiser))
    phi = phi0
    for _ in range(steps):
        phi = phi - step_size * family.lower_gradient(theta, phi)
    return phi


def krylov_basis(
    A: Float64[np.ndarray, "q q"], r0: Float64[np.ndarray, " q"], steps: int
) -> Float64[np.ndarray, "q n"]:
    """Orthonormal basis of span(r0, A r0, ..., A^{N-1} r0), fully reorthogonalised.

    Ends early, at the dimension of the Krylov space, when what is left of the next direction is
    rounding: the Galerkin solution is exact there and further directions would be noise.
    """
    columns: list[np.ndarray] = []
    fresh, size = r0, float(np.linalg.norm(r0))
    floor = np.finfo(np.float64).eps * len(r0)
    largest = float(np.linalg.norm(A, ord=2))
    while len(columns) < min(steps, len(r0)) and size > 0:
        columns.append(fresh / size)
        basis = np.stack(columns, axis=-1)
        fresh = A @ columns[-1]
        for _ in range(2):  # once more: "twice is enough" for orthogonality to round-off
            fresh = fresh - basis @ (basis.T @ fresh)
        size = float(np.linalg.norm(fresh))
        if size <= floor * largest:
            break
    return np.stack(columns, axis=-1) if columns else np.zeros((len(r0), 0))


def krylov_galerkin(
    A: Float64[np.ndarray, "q q"],
    b: Float64[np.ndarray, " q"],
    v0: Float64[np.ndarray, " q"],
    steps: int,
) -> Float64[np.ndarray, " q"]:
    """v_N = v_0 + V (V'AV)^{-1} V' r_0, V a basis of the Krylov space: what N CG steps must return.

    CG minimises the energy norm of the error over v_0 + the Krylov space; the minimiser is the
    Galerkin solution.
    """
    r0 = b - A @ v0
    basis = krylov_basis(A, r0, steps)
    return np.asarray(v0 + basis @ np.linalg.solve(basis.T @ A @ basis, basis.T @ r0))


def finite_steps(
    family: Family,
    theta: Float64[np.ndarray, " p"],
    phi0: Float64[np.ndarray, "*batch q"],
    v0: Float64[np.ndarray, "*batch q"],
    *,
    steps: int,
    max_steps: int,
    step_size: float,
) -> FiniteSteps:
    """phi_K, v_N and h_i after K = steps and N = max_steps."""
    phi = gd(family, theta, phi0, steps=steps, step_size=step_size)
    in_theta, in_phi = family.upper_gradients(theta, phi)
    H = family.hessian(theta, phi)
    v = np.empty_like(phi)
    for task in np.ndindex(*family.batch):
        v[task] = krylov_galerkin(H[task], in_phi[task], v0[task], max_steps)
    h = in_theta - matvec(family.cross(theta, phi), v)
    return FiniteSteps(phi=phi, v=v, tasks=np.asarray(h))
