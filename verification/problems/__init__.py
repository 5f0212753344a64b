"""Bilevel problems with known answers (theory.md, section 1).

Quad   everything in closed form; blind to where H and J are evaluated
Exp    F no longer quadratic; J depends on phi, H does not
LC     H and J depend on phi, all assumptions hold globally
Log    the same for logistic regression, where they hold only locally
Head   softmax regression on features: the few-shot learner's own lower level
"""

from verification.problems.base import Family, FamilyConstants, Magnitudes, take
from verification.problems.exp import Exp
from verification.problems.head import Head
from verification.problems.lc import LC
from verification.problems.least_squares import LeastSquares
from verification.problems.log import Log
from verification.problems.quad import Quad

__all__ = [
    "LC",
    "Exp",
    "Family",
    "FamilyConstants",
    "Head",
    "LeastSquares",
    "Log",
    "Magnitudes",
    "Quad",
    "take",
]
