"""Solved to round-off, the subject returns the hypergradient of the implicit function theorem.

The limit of K and N. A lower solver that does not converge and an adjoint that is not solved show
here, and are invisible to `finite_steps`. A wrong number of steps shows there, and not here.

For softmax heads, the few-shot learner's lower level, the oracle's minimiser is Newton's with dense
Hessians in NumPy, down to the rounding of a gradient, and its adjoint a dense solve. The tolerance
is 1e2 u kappa Xi for them, too.
"""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from hypergrad import Bilevel, Cholesky, Newton, hypergradient
from verification.claims.evidence import Evidence, worst
from verification.oracles import gradient, tolerance
from verification.problems import drawn as instances
from verification.problems.base import Batch
from verification.problems.drawn import Instance
from verification.subjects.bug import Kind, source_bugs

TensorBilevel = Bilevel[torch.Tensor, torch.Tensor]

LARGEST_HEAD_CONDITION = 1e3


@runtime_checkable
class ExactSubject(Protocol):
    """An implementation of the hypergradient of the mean over tasks, solved to round-off."""

    def __call__(
        self,
        problem: TensorBilevel,
        theta: Float[torch.Tensor, " p"],
        phi0: Float[torch.Tensor, "*batch q"],
    ) -> Float[torch.Tensor, " p"]:
        """The hypergradient; a subject without a lower solver is handed the minimiser as phi0."""
        ...


def against_exact_oracle(subjects: Mapping[str, ExactSubject], instance: Instance) -> Evidence:
    """Compare each of them with grad_theta f - J v* at phi*; the tolerance is 1e2 u kappa Xi."""
    if not subjects:
        raise ValueError("against_exact_oracle got no subjects: it would compare nothing.")
    theta, phi0, _ = instance.tensors()
    problem = instance.family.bilevel()
    oracle = gradient(instance.family, instance.theta)
    allowed = tolerance(instance.family, instance.theta)
    return worst(
        Evidence(
            claim="exact hypergradient",
            error=float(np.linalg.norm(subject(problem, theta, phi0).numpy() - oracle)),
            tolerance=allowed,
            scale=float(np.linalg.norm(oracle)),
            where=f"{name} on {type(instance.family).__name__}, batch {instance.family.batch}",
        )
        for name, subject in subjects.items()
    )


def minimum(problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor) -> torch.Tensor:
    """The minimiser to round-off."""
    newton = Newton(rtol=0.0, max_steps=60, solver=Cholesky())
    return newton.minimise(problem.lower, theta, phi0).phi


def solved(problem: TensorBilevel, theta: torch.Tensor, phi0: torch.Tensor) -> torch.Tensor:
    """The library's `Newton`, then `hypergradient` with `Cholesky`."""
    phi = minimum(problem, theta, phi0)
    return hypergradient(problem, theta, phi, solver=Cholesky()).grad


def solved_exactly(subject: ExactSubject, seed: int) -> Evidence:
    """Within 1e2 u kappa Xi of the exact hypergradient; four families, kappa to 1e6."""
    return worst(
        against_exact_oracle({"subject": subject}, instances.of_family(family, seed=seed))
        for family in instances.FAMILIES
    )


def heads_solved_exactly(subject: ExactSubject, seed: int) -> Evidence:
    """Softmax heads on drawn features and on those of real images; kappa to 1e3."""
    rng = np.random.default_rng([seed, 21])
    batch: Batch = ((), (2,), (2, 2))[int(rng.integers(3))]
    way, shot, features = (int(rng.integers(*ends)) for ends in ((2, 6), (1, 4), (2, 7)))
    condition = float(math.exp(rng.uniform(math.log(2), math.log(LARGEST_HEAD_CONDITION))))
    return worst(
        against_exact_oracle(
            {name: subject},
            make(
                seed=seed,
                batch=batch,
                way=way,
                shot=shot,
                features=features,
                condition=condition,
            ),
        )
        for name, make in (("drawn", instances.head), ("real", instances.real_head))
    )


KIND = Kind(
    "solved to round-off",
    solved,
    source_bugs(
        solved,
        "exact solves",
        (
            (
                "N01",
                "Newton stops at 1e-3 of the first gradient",
                "lower.newton",
                "goal = tolerance.goal(point.gradient, lambda: probe.at(x / 2).gradient)",
                "goal = 1e-3 * size",
            ),
            (
                "N02",
                "Newton's direction has the wrong sign",
                "lower.newton",
                "newton = -self.solver",
                "newton = self.solver",
            ),
            (
                "N03",
                "the line search takes no step below 1/2",
                "lower.line_search",
                "taken = active & ~pending",
                "taken = active & ~pending & (length > 0.5)",
            ),
            (
                "N04",
                "dense matrices are built from vectors of length 2",
                "linear.cholesky",
                "units = _eye(shaped_as)",
                "units = 2 * _eye(shaped_as)",
            ),
            (
                "N05",
                "answers are set to zero where the factorisation succeeds",
                "linear.cholesky",
                "direct(product, inverse(rhs), rhs",
                "direct(product, 0 * inverse(rhs), rhs",
            ),
        ),
    ),
)
