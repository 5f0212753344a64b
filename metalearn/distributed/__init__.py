"""Task-parallel training: the ranks of a run, and the little that they tell each other."""

from metalearn.distributed.launch import TIMEOUT_VARIABLE, joined, launched, restarted
from metalearn.distributed.world import ALONE, World

__all__ = ["ALONE", "TIMEOUT_VARIABLE", "World", "joined", "launched", "restarted"]
