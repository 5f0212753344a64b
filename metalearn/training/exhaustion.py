"""Where memory ends: a refusal that says what to do, in place of what torch and Python raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metalearn.config.train import TrainConfig
from metalearn.errors import MemoryExhaustedError, MetalearnError


@contextmanager
def memory_named(step: int, config: TrainConfig) -> Iterator[None]:
    """Turn what is raised for want of memory into a refusal.

    Raises:
        MemoryExhaustedError: naming the step and the settings that take less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MetalearnError) or not _of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"upper step {step} ran out of memory ({str(error).splitlines()[0]}): start more "
            "ranks and continue from the last checkpoint, or begin a new run with fewer "
            f"--tasks-per-chunk (now {config.memory.tasks_per_chunk or 'all'}), --streamed or "
            "--recompute."
        ) from error


def _of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    # the CPU's allocator has no class of its own
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
