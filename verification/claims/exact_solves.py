"""Solved to round-off, the subject returns the hypergradient of the implicit function theorem.

The limit of K and N: what D2 and D3 cannot see, a lower solver that does not converge or an adjoint
that is not solved, shows here; what shows there is invisible here.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from hypergrad import Bilevel
from verification.claims.evidence import Evidence, worst
from verification.instances import Instance
from verification.oracles import gradient, tolerance


@runtime_checkable
class ExactSubject(Protocol):
    """An implementation of the hypergradient of the mean over tasks, solved to round-off."""

    def __call__(
        self,
        problem: Bilevel[torch.Tensor, torch.Tensor],
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
