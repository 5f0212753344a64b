"""Tools of the theorems: constants, plans, certified loops, warm starts, penalties.

The statements and their constants are this project's own (docs/theory.md), not the paper's.
"""

from hypergrad.constants import Constants, Estimated, Proven
from hypergrad.linear.lanczos import Spectrum
from hypergrad.theory.adaptive import AccuracyError, Certified, solve_adaptively
from hypergrad.theory.penalty import Penalised, penalty_hypergradient
from hypergrad.theory.planning import Plan, a_priori_bound, plan, plan_warm
from hypergrad.theory.spectrum import extreme_eigenvalues
from hypergrad.theory.warm import WarmStarts

__all__ = [
    "AccuracyError",
    "Certified",
    "Constants",
    "Estimated",
    "Penalised",
    "Plan",
    "Proven",
    "Spectrum",
    "WarmStarts",
    "a_priori_bound",
    "extreme_eigenvalues",
    "penalty_hypergradient",
    "plan",
    "plan_warm",
    "solve_adaptively",
]
