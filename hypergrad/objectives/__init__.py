"""Lower objectives that know their derivatives, and ways to build one from a loss or a module."""

from hypergrad.objectives.closed_form import ClosedForm
from hypergrad.objectives.composed import Composed
from hypergrad.objectives.modules import call, parameters
from hypergrad.objectives.proximal import Proximal
from hypergrad.objectives.quadratic import Quadratic
from hypergrad.objectives.ridge import RidgeRegression
from hypergrad.objectives.softmax import SoftmaxRegression

__all__ = [
    "ClosedForm",
    "Composed",
    "Proximal",
    "Quadratic",
    "RidgeRegression",
    "SoftmaxRegression",
    "call",
    "parameters",
]
