"""Warm starts are each task's own last phi and v, and a new task's start is cold.

Upper descent over drawn batches of tasks, K and N few, is followed by an oracle that keeps its own
phi_K and v_N (matrix power or plain iterations, and Krylov-Galerkin; `verification.oracles`). The
subject is given theta at every step, so that the states are all that can part the two.

The tolerance: where a step begins subject and oracle are apart by e in phi and d in v, for a task
visited n times already. Descent with alpha <= 1/L does not enlarge e; the Galerkin solution v_N,
a projection of v - v* in the energy norm onto a complement of the Krylov space, has in it
sqrt(kappa) d and kappa (lam22 + rH |v|) e/mu, so that states after n visits are apart by at most
(1 + 2 kappa (1 + (lam22 + rH |v|)/mu))^n times the first one's, which is `finite_steps_tolerance`.
With kappa <= 4 and three visits that is some 1e-10 of an answer that is wrong in its first digits
where a state is anybody else's.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from hypergrad import CG, Bilevel, GradientDescent, hypergradient
from hypergrad.theory import WarmStarts
from verification.claims.evidence import Evidence, worst
from verification.claims.finite_steps import step_size_for
from verification.oracles import finite_steps, finite_steps_tolerance
from verification.problems import drawn as instances
from verification.problems import take
from verification.subjects.bug import Kind, source_bugs

TASKS, BATCH, UPPER_STEPS = 4, 2, 5
STEPS, CG_STEPS = 2, 2
CONDITION = 4.0


@runtime_checkable
class WarmSubject(Protocol):
    """An implementation of Algorithm 1 that remembers each task's phi and v."""

    def __call__(
        self,
        problems: list[Bilevel[torch.Tensor, torch.Tensor]],
        batches: list[list[int]],
        thetas: list[torch.Tensor],
        first: torch.Tensor,
        *,
        step_size: float,
    ) -> list[torch.Tensor]:
        """The hypergradient of each upper step.

        Args:
            problems: bilevel problem of each step's batch.
            batches: tasks of each step, by number.
            thetas: upper variables of each step.
            first: phi of a task that was never visited, (q,).
            step_size: alpha.
        """
        ...


def remembered(
    problems: list[Bilevel[torch.Tensor, torch.Tensor]],
    batches: list[list[int]],
    thetas: list[torch.Tensor],
    first: torch.Tensor,
    *,
    step_size: float,
) -> list[torch.Tensor]:
    """The library's `WarmStarts`; see `WarmSubject`."""
    starts = WarmStarts(first=first)
    by, solver = (
        GradientDescent(max_steps=STEPS, step_size=step_size),
        CG(rtol=0.0, max_steps=CG_STEPS),
    )
    answers = []
    for problem, keys, theta in zip(problems, batches, thetas, strict=True):
        phi, v = starts.gather(keys)
        phi = by.minimise(problem.lower, theta, phi).phi
        step = hypergradient(problem, theta, phi, solver=solver, start=v)
        starts = starts.updated(keys, phi, step.certificate.adjoint.x)
        answers.append(step.grad)
    return answers


def _comparisons(subject: WarmSubject, seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 13])
    q = int(rng.integers(3, 7))
    draw = instances.quad if seed % 2 else instances.lc
    whole = draw(seed=seed, batch=(TASKS,), p=q, q=q, condition=CONDITION)
    family, alpha = whole.family, step_size_for(whole)
    # every task is visited twice at least: the batches of a permutation, its halves exchanged
    order = rng.permutation(TASKS)
    half = [order[:BATCH], order[BATCH:]]
    batches = [half[0], half[1], half[0][::-1], np.array([half[1][0], half[0][1]]), half[1]]
    thetas = [whole.theta + 0.3 * rng.standard_normal(q) for _ in batches]
    parts = [take(family, batch) for batch in batches]
    first = rng.standard_normal(q)
    answers = subject(
        [part.bilevel() for part in parts],
        [batch.tolist() for batch in batches],
        [torch.tensor(theta) for theta in thetas],
        torch.tensor(first),
        step_size=alpha,
    )

    phi, v = np.tile(first, (TASKS, 1)), np.zeros((TASKS, q))
    off, visits = 0.0, np.zeros(TASKS, dtype=int)
    for step, (batch, part, theta, answer) in enumerate(
        zip(batches, parts, thetas, answers, strict=True)
    ):
        at = (part, theta, phi[batch], v[batch])
        oracle = finite_steps(*at, steps=STEPS, max_steps=CG_STEPS, step_size=alpha)
        fresh = finite_steps_tolerance(*at, steps=STEPS, max_steps=CG_STEPS, step_size=alpha)
        k = part.constants(theta)
        kappa, mu = float(k.condition.max()), float(k.strong_convexity.min())
        bend = float((k.lam22 + k.rH * np.linalg.norm(oracle.v, axis=-1)).max()) / mu
        growth = (1 + 2 * kappa * (1 + bend)) ** int(visits[batch].max())
        off = max(off, float((fresh.phi + fresh.v).max()))
        through = float((k.c1 + k.L12).max())
        yield Evidence(
            claim="warm starts",
            error=float(np.linalg.norm(answer.numpy() - oracle.mean)),
            tolerance=fresh.mean + through * growth * off,
            scale=float(np.linalg.norm(oracle.mean)),
            where=f"step {step}, tasks {batch.tolist()}",
        )
        phi[batch], v[batch] = oracle.phi, oracle.v
        visits[batch] += 1


def remembered_starts(subject: WarmSubject, seed: int) -> Evidence:
    """Each task starts from its own last phi and v, a new one cold; upper steps in batches."""
    return worst(_comparisons(subject, seed))


KIND = Kind(
    "warm starts",
    remembered,
    source_bugs(
        remembered,
        "warm starts",
        (
            (
                "W01",
                "v is forgotten",
                "theory.warm",
                "leaves(self.v[key]) if key in self.v else zero",
                "zero",
            ),
            (
                "W02",
                "phi is forgotten",
                "theory.warm",
                "leaves(self.phi[key]) if key in self.phi else first",
                "first",
            ),
            (
                "W03",
                "every task keeps the first one's phi",
                "theory.warm",
                "(_dense(part[i]) for part in tasks)",
                "(part[0].detach().clone() for part in tasks)",
            ),
            (
                "W04",
                "tasks that are not in the batch are forgotten",
                "theory.warm",
                "new_phi, new_v = dict(self.phi), dict(self.v)",
                "new_phi, new_v = {}, {}",
            ),
            (
                "W05",
                "a task keeps the v of its first visit",
                "theory.warm",
                "new_v[key] = like(self.first, (_dense(part[i]) for part in adjoints))",
                "new_v.setdefault(key, like(self.first, (_dense(part[i]) for part in adjoints)))",
            ),
        ),
    ),
)
