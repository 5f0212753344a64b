"""Derivatives of minimisers, with certificates.

``attach`` states that a point minimises an objective, and makes it an ordinary differentiable
value; ``argmin`` finds the point first; ``hypergradient`` returns value, gradient and certificate.
"""

from hypergrad.adjoints import Adjoint, Detached, Implicit, OneStep, Truncated, Unrolled
from hypergrad.argmin import argmin
from hypergrad.attach import attach
from hypergrad.certificate import Certificate, Watch, strict, warn
from hypergrad.errors import (
    AdjointError,
    AdjointWarning,
    DoubleBackwardError,
    HypergradError,
    InputError,
    NotFiniteError,
)
from hypergrad.implicit import Hypergradient, hypergradient, pullback
from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky
from hypergrad.linear.neumann import Neumann
from hypergrad.linear.solution import LinearMap, LinearSolver, Solution, Status
from hypergrad.lower.gradient_descent import GradientDescent
from hypergrad.lower.minimum import LowerSolver, Minimum
from hypergrad.lower.newton import Newton
from hypergrad.objective import Bilevel, Objective
from hypergrad.tree import Tree

__all__ = [
    "CG",
    "Adjoint",
    "AdjointError",
    "AdjointWarning",
    "Bilevel",
    "Certificate",
    "Cholesky",
    "Detached",
    "DoubleBackwardError",
    "GradientDescent",
    "HypergradError",
    "Hypergradient",
    "Implicit",
    "InputError",
    "LinearMap",
    "LinearSolver",
    "LowerSolver",
    "Minimum",
    "Neumann",
    "Newton",
    "NotFiniteError",
    "Objective",
    "OneStep",
    "Solution",
    "Status",
    "Tree",
    "Truncated",
    "Unrolled",
    "Watch",
    "argmin",
    "attach",
    "hypergradient",
    "pullback",
    "strict",
    "warn",
]
