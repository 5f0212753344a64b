"""Times that mean something on a shared machine: contenders take turns, and ratios count.

The machine's speed changes while a benchmark runs. Contenders therefore run A B C, B C A, ... in
one process, and what is reported is the median over rounds of each one's ratio to a reference
within the same round. On the CPU the clock is the process's own: what other processes take away
does not count.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One contender's time over the reference's.

    Attributes:
        median: over rounds.
        low: first quartile.
        high: third quartile.
        seconds: the contender's median time, for scale.
    """

    median: float
    low: float
    high: float
    seconds: float


def interleaved(
    runs: Sequence[Run], *, rounds: int, calls: Sequence[int] | None = None, cuda: bool = False
) -> list[list[float]]:
    """Seconds of each run in each round, taken in turns.

    Args:
        runs: the contenders, each called before (what a first call does beside is not timed).
        rounds: number of rounds.
        calls: number of times each is called in its turn, the time being divided by it; None: once.
        cuda: wait for the device before and after, and take the wall clock.
    """
    repeats = [1] * len(runs) if calls is None else calls
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for position in range(len(runs)):
            index = (position + turn) % len(runs)
            times[index].append(seconds(runs[index], repeats[index], cuda=cuda))
    return times


def ratios(times: Sequence[Sequence[float]], reference: int = 0) -> list[Ratio]:
    """Times of each contender, round by round."""
    found = []
    for own in times:
        each = [mine / other for mine, other in zip(own, times[reference], strict=True)]
        low, middle, high = (
            statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
        )
        found.append(
            Ratio(
                median=middle,
                low=low,
                high=high,
                seconds=statistics.median(own),
            )
        )
    return found


def seconds(run: Run, calls: int = 1, *, cuda: bool = False) -> float:
    """Time of one call, with the garbage collector off."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    clock = time.perf_counter if cuda else time.process_time
    try:
        if cuda:
            torch.cuda.synchronize()
        began = clock()
        for _ in range(calls):
            run()
        if cuda:
            torch.cuda.synchronize()
        return (clock() - began) / calls
    finally:
        if collecting:
            gc.enable()


def keep_pages() -> bool:
    """Keep what is freed for what comes next, where the allocator is glibc's; returns if it is.

    Otherwise each large tensor's pages are asked from the kernel, zeroed and given back, at a cost
    that depends on what else the machine does.
    """
    if not sys.platform.startswith("linux"):
        return False
    no_mapping, no_trimming = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(no_mapping, 0) and library.mallopt(no_trimming, -1))


def spread(time: dict[str, float], *, digits: int) -> tuple[str, str]:
    """A written `Ratio` in two cells of a table: its median, its quartiles."""
    median, low, high = (f"{time[name]:.{digits}f}" for name in ("median", "low", "high"))
    return median, f"{low} to {high}"
