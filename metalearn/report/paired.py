"""Differences between two methods on the same test episodes.

All runs are tested on the same episodes, since the sampler has the same seed. An episode that is
hard is hard for both methods and cancels in the difference, whose interval is therefore much
narrower than those of the two accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from metalearn.errors import RunError
from metalearn.report.collect import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean accuracy of one method minus that of another, both from 0 to 1.

    Attributes:
        mean: Mean difference over seeds and episodes.
        interval: Half the width of the 95 % interval for these seeds: 1.96 s / sqrt(n). Here s is
            the standard deviation, over the n episodes, of the differences averaged over the seeds.
        seeds: Mean difference of each seed.
        spread: Half the width of the 95 % interval for other seeds: Student's t times the standard
            error of `seeds`. Infinite for a single seed.
    """

    mean: float
    interval: float
    seeds: list[float]
    spread: float


def paired(these: Sequence[Finished], those: Sequence[Finished]) -> Difference:
    """Difference of two methods, `these` minus `those`, whose runs have the same seeds.

    Raises:
        RunError: the seeds differ, or the numbers of episodes.
    """
    seeds = [[run.result.seed for run in runs] for runs in (these, those)]
    if seeds[0] != seeds[1]:
        names = [runs[0].result.method for runs in (these, those)]
        raise RunError(
            f"{names[0]} has seeds {seeds[0]}, {names[1]} has {seeds[1]}: pairs need the same."
        )
    apart = _episodes(these) - _episodes(those)
    own = apart.mean(1)
    over_seeds = apart.mean(0)
    count = len(own)
    spread = math.inf
    if count > 1:
        quantile = float(stats.t.ppf(0.975, count - 1))
        spread = quantile * float(own.std(ddof=1)) / math.sqrt(count)
    return Difference(
        mean=float(apart.mean()),
        interval=1.96 * float(over_seeds.std(ddof=1)) / math.sqrt(len(over_seeds)),
        seeds=own.tolist(),
        spread=spread,
    )


def _episodes(runs: Sequence[Finished]) -> Float64[np.ndarray, "seeds episodes"]:
    rows = [run.result.per_episode for run in runs]
    if len({len(row) for row in rows}) > 1:
        raise RunError(f"{runs[0].result.method} was tested on different numbers of episodes.")
    return np.array(rows, dtype=np.float64)
