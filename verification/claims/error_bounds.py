"""Theorem A: the hypergradient is as close to the exact one as was promised beforehand.

On drawn problems of every family the bound is loose; what they show is that nothing violates it.
On `sharp` problems (p = q = 1, quadratic, all signs alike) Theorem A is an equality, so that
whatever adds to the error is seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from verification.claims.evidence import Evidence, worst
from verification.claims.observed import Counts, require_finite
from verification.oracles import finite_steps, gradient
from verification.oracles.bounds import a_priori, rounding
from verification.problems import LeastSquares, Quad
from verification.problems import drawn as instances
from verification.problems.drawn import Generator, Instance
from verification.subjects.algorithm1 import Subject

FAMILIES = ("quad", "exp", "lc", "log")
TASKS = 2


def drawn(rng: Generator, family: str) -> Instance:
    """A problem of the family, kappa log-uniform in [2, 1e3]."""
    draw = getattr(instances, family)
    sizes = {"q": int(rng.integers(2, 9))}
    if family in ("quad", "lc"):
        sizes["p"] = int(rng.integers(1, 7))
    condition = float(10 ** rng.uniform(np.log10(2), 3))
    instance: Instance = draw(
        seed=int(rng.integers(2**32)), batch=(TASKS,), condition=condition, **sizes
    )
    return instance


def sharp(rng: Generator) -> Instance:
    """Tasks with p = q = 1, every coefficient positive: Theorem A holds with equality.

    h - grad F = (Q + (B/mu) P^2)(phi_K - phi*), r_N = 0, and phi_K - phi* = (1 - alpha mu)^K
    (phi_0 - phi*) with one sign: no triangle inequality loses anything, nor does the mean.
    """
    vector, matrix = (TASKS, 1), (TASKS, 1, 1)
    family = Quad(
        A=np.full(matrix, rng.uniform(0.5, 2.0)),
        B=rng.uniform(0.5, 2.0, matrix),
        c=rng.uniform(0.5, 2.0, vector),
        upper=LeastSquares(
            P=rng.uniform(0.5, 2.0, matrix),
            t=rng.uniform(-2.0, -0.5, vector),
            Q=rng.uniform(0.5, 2.0, matrix),
            r=rng.uniform(0.5, 2.0, TASKS),
        ),
    )
    theta = rng.uniform(0.5, 2.0, 1)
    away = rng.uniform(5.0, 10.0, vector)
    return Instance(family, theta, family.minimiser(theta) + away, rng.uniform(0.5, 2.0, vector))


# (1 - 0.9/kappa)^K and 2 tau^N at kappa = 5: 5e-11 and 7e-13, so that the bound is next to nothing
SOLVED_CONDITION, SOLVED_STEPS, SOLVED_CG_STEPS = 5.0, 120, 30


@dataclass(frozen=True)
class Case:
    """A problem, and how Algorithm 1 is run on it.

    Attributes:
        name: kind of problem, in words.
        instance: the problem.
        steps: K.
        max_steps: N.
        share: alpha, in units of 1/L.
        warm: True if the adjoint starts from v0, False if from 0.
    """

    name: str
    instance: Instance
    steps: int
    max_steps: int
    share: float
    warm: bool

    @property
    def counts(self) -> Counts:
        """K, N and alpha, as keywords."""
        largest = self.instance.family.constants(self.instance.theta).smoothness.max()
        step_size = self.share / float(largest)
        return {"steps": self.steps, "max_steps": self.max_steps, "step_size": step_size}

    def __str__(self) -> str:
        start = "warm" if self.warm else "cold"
        return f"{self.name}, K = {self.steps}, N = {self.max_steps}, {start} adjoint"


def cases(seed: int) -> Iterator[Case]:
    """One of each family with random counts, one cut short, one solved, four sharp ones."""
    rng = np.random.default_rng([seed, 2])
    for family in FAMILIES:
        instance = drawn(rng, family)
        steps, max_steps = int(10 ** rng.uniform(0, 2)), int(rng.integers(1, 13))
        share, warm = float(rng.uniform(0.3, 1.9)), bool(rng.random() < 0.5)
        yield Case(family, instance, steps, max_steps, share, warm)
    solved = instances.lc(
        seed=int(rng.integers(2**32)), batch=(TASKS,), p=4, q=4, condition=SOLVED_CONDITION
    )
    # two steps for six eigenvalues over two decades: the residual is what is left
    short = instances.quad(seed=int(rng.integers(2**32)), batch=(TASKS,), p=3, q=6, condition=100.0)
    yield Case("quad, cut short", short, 20, 2, 0.9, warm=False)
    yield Case("lc, solved", solved, SOLVED_STEPS, SOLVED_CG_STEPS, 0.9, warm=False)
    # few steps, where counts and iterates matter; many, where everything else does
    for steps in (int(rng.integers(2, 6)), 80):
        for warm in (False, True):
            yield Case("sharp", sharp(rng), steps, 1, float(rng.uniform(0.4, 0.8)), warm)


def a_priori_bound(subject: Subject, seed: int) -> Evidence:
    """The hypergradient errs by at most Theorem A's bound; ratios are the bound's tightness."""
    return worst(_a_priori(subject, seed))


def _a_priori(subject: Subject, seed: int) -> Iterator[Evidence]:
    for case in cases(seed):
        instance, counts = case.instance, case.counts
        family, theta = instance.family, instance.theta
        tensors = instance.tensors()
        answer = subject(
            family.bilevel(), tensors[0], tensors[1], tensors[2] if case.warm else None, **counts
        )
        v0 = instance.v0 if case.warm else np.zeros_like(instance.v0)
        end = finite_steps(family, theta, instance.phi0, v0, **counts)
        bound = a_priori(family, theta, instance.phi0, v0 if case.warm else None, **counts)
        exact = gradient(family, theta)
        yield Evidence(
            claim="Theorem A",
            error=float(np.linalg.norm(require_finite(answer.numpy()) - exact)),
            tolerance=float((bound + rounding(family, theta, end.phi, end.v)).mean()),
            scale=float(np.linalg.norm(exact)),
            where=str(case),
        )
