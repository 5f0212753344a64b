"""Lower levels whose data lie on several ranks of ``torch.distributed``.

``Sharded`` makes the ranks' parts of a lower objective one objective, whose values, derivatives and
certificate are those of all data, on every rank. ``shared`` and ``total`` are the two operators it
is made of, for conditions and losses of your own.
"""

from hypergrad.distributed.operators import shared, total
from hypergrad.distributed.sharded import Sharded

__all__ = ["Sharded", "shared", "total"]
