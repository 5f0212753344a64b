"""Conditions that define phi, given to ``attach`` and the others in the objective's place."""

from hypergrad.conditions.fixed_point import FixedPoint
from hypergrad.conditions.root import Root
from hypergrad.conditions.stationary import Stationary

__all__ = ["FixedPoint", "Root", "Stationary"]
