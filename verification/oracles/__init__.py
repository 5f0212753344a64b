"""Exact answers in float64 NumPy, computed without hypergrad and without torch.

exact       adjoint and hypergradient at the minimiser
algorithm1  Algorithm 1 stopped after K descent steps and N conjugate-gradient steps
rounding    distance by which rounding may move either
"""

from verification.oracles.algorithm1 import FiniteSteps, finite_steps, gd, krylov_galerkin
from verification.oracles.exact import adjoint, gradient, task_gradients
from verification.oracles.rounding import error_scale, finite_steps_tolerance, tolerance

__all__ = [
    "FiniteSteps",
    "adjoint",
    "error_scale",
    "finite_steps",
    "finite_steps_tolerance",
    "gd",
    "gradient",
    "krylov_galerkin",
    "task_gradients",
    "tolerance",
]
