"""Tasks know nothing of each other, and neither does the machine they are spread over.

Nothing but the subject itself is compared, on six tasks of LC. With S(I) the sum of the tasks'
hypergradients, |I| times what the subject returns for the tasks I:

    order        S(sigma I) = S(I) for a drawn permutation sigma
    shape        the tasks as (6,), (2, 3) and (3, 2) have the same mean
    repetition   a batch with repeated tasks returns the mean weighted by how often each occurs
    blocks       exchanging task j changes S by S({j'}) - S({j}) and by nothing else
    ranks        the means of W equal parts, averaged, are the mean of the whole, W = 2, 3, 6

In exact arithmetic these are equalities. In floating point a task's h_i is off by half of
`finite_steps_tolerance` (which allows for two sides); weights w_i multiply it, and both sides have
it, so that sum_i |w_i| tolerance_i bounds each difference, w_i the larger weight of the two sides.
"""

from collections.abc import Iterator

import numpy as np

from verification.claims.evidence import Evidence, worst
from verification.claims.finite_steps import (
    CG_STEPS,
    DESCENT_STEPS,
    drawn_sizes,
    step_size_for,
)
from verification.oracles import finite_steps_tolerance
from verification.problems import drawn as instances
from verification.problems.drawn import Instance, pick
from verification.subjects.algorithm1 import Subject

TASKS = 6
# Enough for rounding to be at 1e-12 relative: here conditioning is not what is tested.
LARGEST_CONDITION = 10.0


def _comparisons(subject: Subject, seed: int) -> Iterator[Evidence]:
    size, condition = drawn_sizes(seed)
    condition = min(condition, LARGEST_CONDITION)
    # one more task than there are, to exchange one for
    drawn = instances.lc(seed=seed, batch=(TASKS + 1,), p=size, q=size, condition=condition)
    rng = np.random.default_rng([seed, 10])
    step_size = step_size_for(drawn)

    def mean(part: Instance) -> np.ndarray:
        theta, phi0, v0 = part.tensors()
        answer = subject(
            part.family.bilevel(),
            theta,
            phi0,
            v0,
            steps=DESCENT_STEPS,
            max_steps=CG_STEPS,
            step_size=step_size,
        )
        return np.asarray(answer.numpy())

    def of(index: np.ndarray) -> np.ndarray:
        return mean(pick(drawn, index))

    each = finite_steps_tolerance(
        drawn.family,
        drawn.theta,
        drawn.phi0,
        drawn.v0,
        steps=DESCENT_STEPS,
        max_steps=CG_STEPS,
        step_size=step_size,
    ).tasks
    tasks = np.arange(TASKS)
    whole = of(tasks)
    usual = float(each[:TASKS].mean())

    def evidence(error: np.ndarray, tolerance: float, where: str) -> Evidence:
        return Evidence(
            claim="independence of tasks on LC",
            error=float(np.linalg.norm(error)),
            tolerance=tolerance,
            scale=float(np.linalg.norm(whole)),
            where=where,
        )

    yield evidence(of(rng.permutation(TASKS)) - whole, usual, "a permutation of the tasks")
    for shape in ((2, 3), (3, 2)):
        table = of(tasks.reshape(shape))
        yield evidence(table - whole, usual, f"the tasks as a table of shape {shape}")

    singles = np.stack([of(np.array([task])) for task in range(TASKS + 1)])
    repeated = np.concatenate([tasks, rng.integers(0, TASKS, TASKS)])
    weights = np.bincount(repeated, minlength=TASKS) / len(repeated)
    yield evidence(
        of(repeated) - weights @ singles[:TASKS],
        float(weights @ each[:TASKS]),
        f"tasks occurring {np.bincount(repeated, minlength=TASKS).tolist()} times",
    )

    gone = int(rng.integers(TASKS))
    exchanged = np.where(tasks == gone, TASKS, tasks)
    change = TASKS * (of(exchanged) - whole) - (singles[TASKS] - singles[gone])
    # both batches contain the five that stay; the two exchanged occur on both sides, too
    yield evidence(change, 2 * float(each.sum()), f"task {gone} exchanged for another")

    for ranks in (2, 3, TASKS):
        parts = np.stack([of(part) for part in np.split(tasks, ranks)])
        yield evidence(parts.mean(0) - whole, usual, f"{ranks} ranks of {TASKS // ranks} tasks")


def independent_tasks(subject: Subject, seed: int) -> Evidence:
    """Order, shape, repetition, exchange and division over ranks of independent tasks."""
    return worst(_comparisons(subject, seed))
