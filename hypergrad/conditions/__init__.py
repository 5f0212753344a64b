"""Conditions that define phi, given in the place of a smooth objective."""

from hypergrad.conditions.composite import Composite
from hypergrad.conditions.constrained import Constrained
from hypergrad.conditions.fixed_point import FixedPoint
from hypergrad.conditions.nuclear import NuclearNorm
from hypergrad.conditions.parts import Penalty, Set
from hypergrad.conditions.penalties import L1, ElasticNet, GroupL2
from hypergrad.conditions.reach import Reach, reach
from hypergrad.conditions.root import Root
from hypergrad.conditions.sets import Affine, Box, L2Ball, NonNegative, Simplex
from hypergrad.conditions.stationary import Stationary
from hypergrad.implicit.active import ActiveSet
from hypergrad.implicit.entrywise import Entrywise

__all__ = [
    "L1",
    "ActiveSet",
    "Affine",
    "Box",
    "Composite",
    "Constrained",
    "ElasticNet",
    "Entrywise",
    "FixedPoint",
    "GroupL2",
    "L2Ball",
    "NonNegative",
    "NuclearNorm",
    "Penalty",
    "Reach",
    "Root",
    "Set",
    "Simplex",
    "Stationary",
    "reach",
]
