"""Bilevel problems with known answers (theory.md, section 1).

Quad   everything in closed form; blind to where H and J are evaluated
Exp    F no longer quadratic; J depends on phi, H does not
LC     H and J depend on phi, all assumptions hold globally
Log    the same for logistic regression, where they hold only locally
Head   softmax regression on features: the few-shot learner's own lower level
"""

from verification.families.base import Family, FamilyConstants, Magnitudes, take
from verification.families.exp import Exp
from verification.families.head import Head
from verification.families.lc import LC
from verification.families.least_squares import LeastSquares
from verification.families.log import Log
from verification.families.quad import Quad

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
