"""Lower objectives that know their derivatives, and ways to build one from a loss or a module.

What the kernel does not need is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from hypergrad.objectives.closed_form import ClosedForm
from hypergrad.objectives.composed import Composed

if TYPE_CHECKING:
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

_LATER: Final = {
    "Proximal": "proximal",
    "Quadratic": "quadratic",
    "RidgeRegression": "ridge",
    "SoftmaxRegression": "softmax",
    "call": "modules",
    "parameters": "modules",
}


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(f"hypergrad.objectives.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
