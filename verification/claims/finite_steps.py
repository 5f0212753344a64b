"""With K and N finite, the subject returns exactly what Algorithm 1 returns.

Finite K and N are what makes these checks sharp: one step too many or too few, half a step size, a
Hessian at the wrong iterate all disappear in the limit (theory.md, section 5).
"""

from collections.abc import Iterator

import numpy as np
import torch

from verification.claims.evidence import Evidence, worst
from verification.oracles import finite_steps, finite_steps_tolerance
from verification.problems import drawn as instances
from verification.problems import take
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import Subject

# theory.md, section 5: few enough steps that none is lost in convergence.
DESCENT_STEPS = 3
CG_STEPS = 2


def step_size_for(instance: Instance) -> float:
    """0.9/L for the largest L of the tasks: a contraction in every direction, special in none."""
    return 0.9 / float(instance.family.constants(instance.theta).smoothness.max())


def against_finite_oracle(claim: str, subject: Subject, instance: Instance) -> Evidence:
    """Compare with matrix power (or plain iterations) and the Krylov-Galerkin solution.

    All tasks in one batch, then one after another; cold adjoint, then warm. The tolerance is the
    running error bound of `finite_steps_tolerance`.
    """
    return worst(_comparisons(claim, subject, instance))


def _comparisons(claim: str, subject: Subject, instance: Instance) -> Iterator[Evidence]:
    family = instance.family
    step_size = step_size_for(instance)
    parts = [(instance, "in one batch")]
    for task in np.ndindex(*family.batch):
        single = Instance(
            take(family, task), instance.theta, instance.phi0[task], instance.v0[task]
        )
        parts.append((single, f"task {task} by itself"))
    for part, name in parts:
        problem = part.family.bilevel()
        theta, phi0, warm = part.tensors()
        starts: list[tuple[str, np.ndarray, torch.Tensor | None]] = [
            ("cold", np.zeros_like(part.v0), None),
            ("warm", part.v0, warm),
        ]
        for start, v0, given in starts:
            answer = subject(
                problem,
                theta,
                phi0,
                given,
                steps=DESCENT_STEPS,
                max_steps=CG_STEPS,
                step_size=step_size,
            )
            at = (part.family, part.theta, part.phi0, v0)
            oracle = finite_steps(
                *at, steps=DESCENT_STEPS, max_steps=CG_STEPS, step_size=step_size
            ).mean
            allowed = finite_steps_tolerance(
                *at, steps=DESCENT_STEPS, max_steps=CG_STEPS, step_size=step_size
            )
            yield Evidence(
                claim=claim,
                error=float(np.linalg.norm(answer.numpy() - oracle)),
                tolerance=allowed.mean,
                scale=float(np.linalg.norm(oracle)),
                where=f"{name}, {start} start",
            )


def drawn_sizes(seed: int) -> tuple[int, float]:
    """A size p = q in 3..6 and a condition number in [4, 100], log-uniform, from the seed.

    p = q so that a transposed cross block is no mere shape error; q > N so that CG is cut short.
    """
    rng = np.random.default_rng([seed, 1])
    return int(rng.integers(3, 7)), float(np.exp(rng.uniform(np.log(4), np.log(100))))


def finite_steps_on_quad(subject: Subject, seed: int) -> Evidence:
    """Finite K and N on Quad, two tasks, against matrix power and Krylov-Galerkin."""
    size, condition = drawn_sizes(seed)
    instance = instances.quad(seed=seed, batch=(2,), p=size, q=size, condition=condition)
    return against_finite_oracle("finite steps on Quad", subject, instance)


def finite_steps_on_lc(subject: Subject, seed: int) -> Evidence:
    """Finite K and N on LC, where H and J depend on phi; two tasks."""
    size, condition = drawn_sizes(seed)
    instance = instances.lc(seed=seed, batch=(2,), p=size, q=size, condition=condition)
    return against_finite_oracle("finite steps on LC", subject, instance)
