"""Lower levels of many examples: batches, second derivatives on some of them, single-loop methods.

``Minibatched`` states the finite sum once. ``Subsampled`` lets ``attach``, ``argmin`` and
``hypergradient`` take their products on few blocks and judges the answer on all of them. The
methods ``SOBA``, ``SABA``, ``StocBiO``, ``AmIGO`` and ``F2SA`` take one upper step at a time, from
a ``State`` that the caller owns.
"""

from hypergrad.stochastic.f2sa import F2SA
from hypergrad.stochastic.loops import AmIGO, StocBiO
from hypergrad.stochastic.minibatched import Minibatched
from hypergrad.stochastic.saba import SABA
from hypergrad.stochastic.schedules import decaying, growing
from hypergrad.stochastic.soba import SOBA
from hypergrad.stochastic.state import State
from hypergrad.stochastic.subsampled import Subsampled

__all__ = [
    "F2SA",
    "SABA",
    "SOBA",
    "AmIGO",
    "Minibatched",
    "State",
    "StocBiO",
    "Subsampled",
    "decaying",
    "growing",
]
