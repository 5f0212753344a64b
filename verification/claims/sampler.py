"""C7: batches of b different tasks out of M, each as likely, independent from step to step.

Exact tails, no asymptotics (theory.md, section 5, item 3). Over T steps of a sampler without
replacement, if it is what it claims to be:

    duplicates   none, ever; b indices of 0..M-1; the same call gives the same batch
    inclusion    the count of each task is binomial(T, b/M); M counts by Bonferroni
    overlap      of consecutive batches: given one batch, what it shares with the next is
                 hypergeometric(M, b, b) whatever that batch is, so the T - 1 overlaps are
                 independent, and their sum has the (T - 1)-fold convolution as its law
    seeds        the overlap of the batches of two seeds at the same step, T of them: the same

The size is divided equally among the last three, and each of those between its two sides.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from scipy import stats

from verification.claims.evidence import Evidence, worst
from verification.suite.model import Bug

TASKS, BATCH, STEPS = 20, 5, 400
SIZE = 1e-9


@runtime_checkable
class TaskSampler(Protocol):
    """What chooses the tasks of a batch: a function of a seed and a step, of nothing else."""

    def __call__(self, seed: int, step: int) -> np.ndarray:
        """Indices (BATCH,) of tasks, out of TASKS."""
        ...


def uniform(seed: int, step: int) -> np.ndarray:
    """The reference: a batch without replacement from a random stream of its own."""
    return np.random.default_rng([seed, step]).choice(TASKS, BATCH, replace=False)


def acceptance(law: np.ndarray, size: float) -> tuple[int, int]:
    """The largest region [low, high] with P(X < low) and P(X > high) at most size/2 each.

    The tails are summed from their small end: relative errors of rounding, where a difference from
    1 would be nothing but rounding.
    """
    below = np.cumsum(law)  # P(X <= k)
    above = np.cumsum(law[::-1])[::-1]  # P(X >= k)
    low = int(np.searchsorted(below, size / 2, side="right"))
    high = int(np.flatnonzero(above > size / 2)[-1])
    return low, high


def inclusion_region(size: float, *, steps: int = STEPS) -> tuple[int, int]:
    """Where every one of the TASKS inclusion counts lies, but for probability `size`."""
    law = stats.binom.pmf(np.arange(steps + 1), steps, BATCH / TASKS)
    return acceptance(law, size / TASKS)


def overlap_region(size: float, *, pairs: int = STEPS - 1) -> tuple[int, int]:
    """Where the total overlap of so many pairs of batches lies, but for probability `size`.

    The convolution adds positive numbers only: its relative error is a few BATCH pairs u.
    """
    single = stats.hypergeom.pmf(np.arange(BATCH + 1), TASKS, BATCH, BATCH)
    law = np.ones(1)
    for _ in range(pairs):
        law = np.convolve(law, single)
    return acceptance(law, size)


def _within(found: int, mean: float, region: tuple[int, int], where: str) -> Evidence:
    """Error <= tolerance exactly if the integer found is in the region."""
    edge = region[1] + 0.5 if found > mean else region[0] - 0.5
    return Evidence(
        claim="C7 sampler",
        error=float(abs(found - mean)),
        tolerance=abs(edge - mean),
        scale=mean,
        where=f"{where}: {found:g}, accepted in [{region[0]}, {region[1]}], mean {mean:g}",
    )


def _comparisons(sampler: TaskSampler, seed: int, size: float) -> Iterator[Evidence]:
    batches = [np.asarray(sampler(seed, step)) for step in range(STEPS)]
    again = [np.asarray(sampler(seed, step)) for step in (0, STEPS // 2)]
    wrong = sum(
        len(batch) != BATCH or len({*batch.tolist()} & {*range(TASKS)}) != BATCH
        for batch in batches
    )
    wrong += sum(
        not np.array_equal(*pair)
        for pair in zip(again, (batches[0], batches[STEPS // 2]), strict=True)
    )
    where = f"{wrong} batches with duplicates, or unequal"
    yield Evidence("C7 sampler", float(wrong), 0.5, float(STEPS), where)

    members = np.zeros((STEPS, TASKS), dtype=int)
    other = np.zeros((STEPS, TASKS), dtype=int)
    for step in range(STEPS):
        members[step, batches[step]] = 1
        other[step, np.asarray(sampler(seed + 1, step))] = 1
    region = inclusion_region(size / 3)
    for task, count in enumerate(members.sum(0).tolist()):
        yield _within(count, STEPS * BATCH / TASKS, region, f"inclusions of task {task}")
    shared = BATCH**2 / TASKS
    consecutive = int((members[1:] * members[:-1]).sum())
    yield _within(
        consecutive,
        shared * (STEPS - 1),
        overlap_region(size / 3),
        "overlap of consecutive batches",
    )
    between = int((members * other).sum())
    region = overlap_region(size / 3, pairs=STEPS)
    yield _within(between, shared * STEPS, region, "overlap of the batches of two seeds")


def c7(sampler: TaskSampler, seed: int, size: float = SIZE) -> Evidence:
    """C7: no duplicates; inclusion counts and overlaps within exact tails of this total size."""
    return worst(_comparisons(sampler, seed, size))


def twice(seed: int, step: int) -> np.ndarray:
    """M13: each batch is used twice."""
    return uniform(seed, step // 2)


def with_replacement(seed: int, step: int) -> np.ndarray:
    """M14: with instead of without replacement."""
    return np.random.default_rng([seed, step]).choice(TASKS, BATCH, replace=True)


def half(seed: int, step: int) -> np.ndarray:
    """M15: the sampler sees half the tasks."""
    return np.random.default_rng([seed, step]).choice(TASKS // 2, BATCH, replace=False)


def epochs(seed: int, step: int) -> np.ndarray:
    """An epoch's permutation is cut into batches: consecutive ones share too little."""
    epoch, part = divmod(step, TASKS // BATCH)
    order = np.random.default_rng([seed, epoch]).permutation(TASKS)
    return order[part * BATCH : (part + 1) * BATCH]


def deaf(seed: int, step: int) -> np.ndarray:
    """The seed is ignored."""
    return uniform(0, step)


def last_left_out(seed: int, step: int) -> np.ndarray:
    """Off by one: the last task is never drawn."""
    return np.random.default_rng([seed, step]).choice(TASKS - 1, BATCH, replace=False)


BUGS: tuple[Bug, ...] = (
    Bug("M13", "each batch is used twice", twice),
    Bug("M14", "with instead of without replacement", with_replacement),
    Bug("M15", "the sampler sees half the tasks", half),
    Bug("S01", "an epoch's permutation cut into batches", epochs),
    Bug("S02", "the seed is ignored", deaf),
    Bug("S03", "the last task is never drawn", last_left_out),
)
