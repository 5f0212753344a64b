"""D6: a batch is its tasks, side by side. No oracle: the subject is compared with itself.

The mean over a batch is the mean of its tasks taken alone; permuting the tasks changes nothing;
doing every task twice changes nothing (theory.md, section 5).
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
from verification.oracles import finite_tolerance
from verification.problems import drawn as instances
from verification.problems import take
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import Subject

TASKS = 3
# Enough for rounding to be at 1e-12 relative: here conditioning is not what is tested.
LARGEST_CONDITION = 10.0


def pick(instance: Instance, index: tuple[int, ...] | np.ndarray) -> Instance:
    """The instance's tasks at an index of the leading dimensions."""
    return Instance(
        family=take(instance.family, index),
        theta=instance.theta,
        phi0=instance.phi0[index],
        v0=instance.v0[index],
    )


def batch_algebra(claim: str, subject: Subject, instance: Instance) -> Evidence:
    """Compare batch, permuted batch and doubled batch with the mean of single tasks.

    All of them are the same sums in exact arithmetic. In floating point each side is off the exact
    value by half of `finite_tolerance` (which allows for two sides), whatever the order of tasks.
    """
    return worst(_comparisons(claim, subject, instance))


def _comparisons(claim: str, subject: Subject, instance: Instance) -> Iterator[Evidence]:
    family = instance.family
    if len(family.batch) != 1 or family.batch[0] < 2:
        raise ValueError(f"batch_algebra got batch {family.batch}; it needs (T,) with T > 1.")
    tasks = family.batch[0]
    step_size = step_size_for(instance)

    def answer(part: Instance) -> np.ndarray:
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

    mean = np.mean([answer(pick(instance, (task,))) for task in range(tasks)], axis=0)
    allowed = finite_tolerance(
        family,
        instance.theta,
        instance.phi0,
        instance.v0,
        steps=DESCENT_STEPS,
        max_steps=CG_STEPS,
        step_size=step_size,
    ).mean
    order = np.arange(tasks)
    batches = {
        "batch": order,
        "reversed": order[::-1],
        "rotated": np.roll(order, 1),
        "doubled": np.repeat(order, 2),
        "batch, again": order,
    }
    for name, index in batches.items():
        yield Evidence(
            claim=claim,
            error=float(np.linalg.norm(answer(pick(instance, index)) - mean)),
            tolerance=allowed,
            scale=float(np.linalg.norm(mean)),
            where=f"{name} against the mean of its {tasks} tasks",
        )


def d6(subject: Subject, seed: int) -> Evidence:
    """D6: batch algebra on LC, three tasks."""
    size, condition = drawn_sizes(seed)
    condition = min(condition, LARGEST_CONDITION)
    instance = instances.lc(seed=seed, batch=(TASKS,), p=size, q=size, condition=condition)
    return batch_algebra("D6 batch algebra on LC", subject, instance)
