"""Task-parallel training: the ranks of a run, and the little that they tell each other."""

from metalearn.distributed.exchange import exchanged
from metalearn.distributed.joining import TIMEOUT_VARIABLE, joined, launched, restarted
from metalearn.distributed.world import ALONE, World

__all__ = ["ALONE", "TIMEOUT_VARIABLE", "World", "exchanged", "joined", "launched", "restarted"]
