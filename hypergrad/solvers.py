"""Solvers for `conditions`: those that find phi, and those of systems that are not symmetric."""

from hypergrad.linear.bicgstab import BiCGStab
from hypergrad.linear.gmres import GMRES
from hypergrad.linear.lu import LU
from hypergrad.lower.anderson import Anderson
from hypergrad.lower.broyden import Broyden
from hypergrad.lower.coordinate_descent import CoordinateDescent
from hypergrad.lower.iteration import Iteration
from hypergrad.lower.minimum import RootSolver
from hypergrad.lower.newton_krylov import NewtonKrylov
from hypergrad.lower.proximal_gradient import ProximalGradient

__all__ = [
    "GMRES",
    "LU",
    "Anderson",
    "BiCGStab",
    "Broyden",
    "CoordinateDescent",
    "Iteration",
    "NewtonKrylov",
    "ProximalGradient",
    "RootSolver",
]
