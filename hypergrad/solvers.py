"""Solvers for equations: of the level that finds phi, and of systems that are not symmetric."""

from hypergrad.linear.bicgstab import BiCGStab
from hypergrad.linear.gmres import GMRES
from hypergrad.linear.lu import LU
from hypergrad.lower.anderson import Anderson
from hypergrad.lower.broyden import Broyden
from hypergrad.lower.iteration import Iteration
from hypergrad.lower.minimum import RootSolver
from hypergrad.lower.newton_krylov import NewtonKrylov

__all__ = [
    "GMRES",
    "LU",
    "Anderson",
    "BiCGStab",
    "Broyden",
    "Iteration",
    "NewtonKrylov",
    "RootSolver",
]
