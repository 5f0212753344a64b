"""Derivatives of minimisers, with certificates.

``attach`` states that a point minimises an objective, and makes it an ordinary differentiable
value; ``argmin`` finds the point first; ``hypergradient`` returns value, gradient and certificate;
``check`` looks for what could make them wrong. What defines phi may be another condition than an
objective: a root, a saddle point, a minimiser within bounds or at kinks (``conditions``, with their
``solvers``). The rest has its place in ``curvature``, ``distributed``, ``errors``, ``objectives``,
``preconditioners``, ``stochastic``, ``theory`` and ``updates``.

What few programs need is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from hypergrad import errors, objectives
from hypergrad.adjoints import Adjoint, Detached, Implicit, OneStep, Truncated, Unrolled
from hypergrad.argmin import argmin
from hypergrad.guards import deferred
from hypergrad.implicit import curvature
from hypergrad.implicit.attach import attach
from hypergrad.implicit.certificate import Certificate
from hypergrad.implicit.pullback import Hypergradient, hypergradient, pullback
from hypergrad.implicit.watch import Summary, strict, warn
from hypergrad.linear import preconditioners
from hypergrad.linear.cg import CG
from hypergrad.linear.cholesky import Cholesky
from hypergrad.linear.neumann import Neumann
from hypergrad.linear.solution import LinearMap, LinearSolver, Solution, Status
from hypergrad.lower.gradient_descent import GradientDescent
from hypergrad.lower.minimum import LowerSolver
from hypergrad.objective import Bilevel, Objective
from hypergrad.tree import Tree

if TYPE_CHECKING:
    from hypergrad import conditions, distributed, solvers, stochastic, theory
    from hypergrad.checks.check import check
    from hypergrad.forward import Forward
    from hypergrad.linear.minres import MINRES
    from hypergrad.linear.normal_cg import NormalCG
    from hypergrad.linear.woodbury import Woodbury
    from hypergrad.lower import updates
    from hypergrad.lower.lbfgs import LBFGS
    from hypergrad.lower.nesterov import Nesterov
    from hypergrad.lower.newton import Newton
    from hypergrad.lower.torch_optim import TorchOptimiser
    from hypergrad.lower.updates import Descent

__version__ = "0.1.0"

__all__ = [
    "CG",
    "LBFGS",
    "MINRES",
    "Adjoint",
    "Bilevel",
    "Certificate",
    "Cholesky",
    "Descent",
    "Detached",
    "Forward",
    "GradientDescent",
    "Hypergradient",
    "Implicit",
    "LinearMap",
    "LinearSolver",
    "LowerSolver",
    "Nesterov",
    "Neumann",
    "Newton",
    "NormalCG",
    "Objective",
    "OneStep",
    "Solution",
    "Status",
    "Summary",
    "TorchOptimiser",
    "Tree",
    "Truncated",
    "Unrolled",
    "Woodbury",
    "argmin",
    "attach",
    "check",
    "conditions",
    "curvature",
    "deferred",
    "distributed",
    "errors",
    "hypergradient",
    "objectives",
    "preconditioners",
    "pullback",
    "solvers",
    "stochastic",
    "strict",
    "theory",
    "updates",
    "warn",
]

_NAMESPACES: Final = {
    "conditions": "conditions",
    "distributed": "distributed",
    "solvers": "solvers",
    "stochastic": "stochastic",
    "theory": "theory",
    "updates": "lower.updates",
}
_LATER: Final = {
    "Descent": "lower.updates",
    "Forward": "forward",
    "LBFGS": "lower.lbfgs",
    "MINRES": "linear.minres",
    "Nesterov": "lower.nesterov",
    "Newton": "lower.newton",
    "NormalCG": "linear.normal_cg",
    "TorchOptimiser": "lower.torch_optim",
    "Woodbury": "linear.woodbury",
    "check": "checks.check",
}


def __getattr__(name: str) -> object:
    if name in _NAMESPACES:
        return import_module(f"hypergrad.{_NAMESPACES[name]}")
    if name in _LATER:
        return getattr(import_module(f"hypergrad.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMESPACES, *_LATER})
