"""Exact answers in float64 NumPy, computed without hypergrad and without torch.

exact     adjoint and hypergradient at the minimiser
finite    what Algorithm 1 returns with K descent steps and N conjugate-gradient steps
rounding  how far rounding may move either
"""

from verification.oracles.algorithm1 import Finite, finite, gd, krylov_galerkin
from verification.oracles.exact import adjoint, gradient, task_gradients
from verification.oracles.rounding import error_scale, finite_tolerance, tolerance

__all__ = [
    "Finite",
    "adjoint",
    "error_scale",
    "finite",
    "finite_tolerance",
    "gd",
    "gradient",
    "krylov_galerkin",
    "task_gradients",
    "tolerance",
]
