"""The hypergradient by the implicit function theorem, from each family's exact pieces.

grad F_i = grad_theta f - J v*,  H v* = grad_phi f,  all at (theta, phi*)   (theory.md, section 0)
"""

import numpy as np
from jaxtyping import Float64

from verification.problems import Family
from verification.problems.base import matvec, solve


def adjoint(family: Family, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch q"]:
    """v* = H^{-1} grad_phi f at the minimiser of each task."""
    phi = family.minimiser(theta)
    return solve(family.hessian(theta, phi), family.upper_gradients(theta, phi)[1])


def task_gradients(
    family: Family, theta: Float64[np.ndarray, " p"]
) -> Float64[np.ndarray, "*batch p"]:
    """The gradient of F_i, for each task."""
    phi = family.minimiser(theta)
    in_theta, in_phi = family.upper_gradients(theta, phi)
    v = solve(family.hessian(theta, phi), in_phi)
    return np.asarray(in_theta - matvec(family.cross(theta, phi), v))


def gradient(family: Family, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, " p"]:
    """The gradient of F, the mean of those of F_i over all tasks."""
    return mean_over_tasks(task_gradients(family, theta))


def mean_over_tasks(values: Float64[np.ndarray, "*batch p"]) -> Float64[np.ndarray, " p"]:
    """Mean over every leading dimension."""
    return np.asarray(values.reshape(-1, values.shape[-1]).mean(0))
