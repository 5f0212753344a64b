"""Theorem B: the certificate that comes with a hypergradient bounds its error, and is what it says.

The bound is evaluated anew in NumPy at the phi and v that the hypergradient was made of: where
certificate and formula differ by more than rounding, one of them is wrong, however loose the bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64

from hypergrad import CG, GradientDescent, hypergradient
from hypergrad.theory import Constants, Proven
from verification.claims.error_bounds import cases
from verification.claims.evidence import Evidence, worst
from verification.claims.observed import require_finite
from verification.oracles import gradient
from verification.oracles.bounds import a_posteriori, rounding
from verification.problems.base import FamilyConstants
from verification.problems.drawn import Instance
from verification.subjects.bug import Kind, source_bugs


@dataclass(frozen=True)
class Certified:
    """A hypergradient with the bound on its error.

    Attributes:
        h: the hypergradient of the mean over the tasks.
        phi: lower variables at which h was taken.
        v: the adjoint of each task that it was made with.
        bound: on the error of each task's hypergradient.
    """

    h: Float64[np.ndarray, " p"]
    phi: Float64[np.ndarray, "*batch q"]
    v: Float64[np.ndarray, "*batch q"]
    bound: Float64[np.ndarray, "*batch"]


@runtime_checkable
class Certifier(Protocol):
    """An implementation of Algorithm 1 that says how far off it can be."""

    def __call__(
        self, instance: Instance, warm: bool, *, steps: int, max_steps: int, step_size: float
    ) -> Certified:
        """K descent steps from phi0 and N of CG, from v0 where `warm`."""
        ...


def proven(k: FamilyConstants, **others: np.ndarray) -> Constants:
    """A family's constants for the library; others are added, or take their place."""
    given = {
        "strong_convexity": k.strong_convexity,
        "smoothness": k.smoothness,
        "coupling": k.L12,
        "upper_coupling": k.lam12,
        "upper_smoothness": k.lam22,
        "hessian_lipschitz": k.rH,
        "coupling_lipschitz": k.rJ,
        "adjoint_norm": k.V,
        **others,
    }
    return Constants(**{name: Proven(torch.tensor(value)) for name, value in given.items()})


def certified(
    instance: Instance, warm: bool, *, steps: int, max_steps: int, step_size: float
) -> Certified:
    """The library's: `hypergradient` and its `Certificate.bound`."""
    problem = instance.family.bilevel()
    theta, phi0, v0 = instance.tensors()
    descent = GradientDescent(max_steps=steps, step_size=step_size)
    phi = descent.minimise(problem.lower, theta, phi0).phi
    solver = CG(max_steps=max_steps, rtol=0.0)
    answer = hypergradient(problem, theta, phi, solver=solver, start=v0 if warm else None)
    bound = answer.certificate.bound(proven(instance.family.constants(instance.theta)))
    return Certified(
        h=answer.grad.numpy(),
        phi=phi.numpy(),
        v=answer.certificate.adjoint.x.numpy(),
        bound=torch.as_tensor(bound.value).numpy(),
    )


def a_posteriori_bound(subject: Certifier, seed: int) -> Evidence:
    """The hypergradient errs by at most its certificate, which is Theorem B's bound."""
    return worst(_comparisons(subject, seed))


def _comparisons(subject: Certifier, seed: int) -> Iterator[Evidence]:
    for case in cases(seed):
        instance = case.instance
        family, theta = instance.family, instance.theta
        found = subject(instance, case.warm, **case.counts)
        formula = a_posteriori(family, theta, require_finite(found.phi), require_finite(found.v))
        slack = rounding(family, theta, found.phi, found.v)
        exact = gradient(family, theta)
        yield Evidence(
            claim="Theorem B",
            error=float(np.linalg.norm(require_finite(found.h) - exact)),
            tolerance=float((found.bound + slack).mean()),
            scale=float(np.linalg.norm(exact)),
            where=str(case),
        )
        yield Evidence(
            claim="Theorem B",
            error=float(np.linalg.norm(require_finite(found.bound - formula))),
            tolerance=float(np.linalg.norm(slack)),
            scale=float(np.linalg.norm(formula)),
            where=f"certificate against formula; {case}",
        )


KIND = Kind(
    "certificate",
    certified,
    source_bugs(
        certified,
        "Theorem B",
        (
            (
                "C01",
                "rJ left out",
                "implicit.certificate",
                "(upper_coupling.value + rJ.value * v)",
                "upper_coupling.value",
            ),
            (
                "C02",
                "rH left out",
                "implicit.certificate",
                "(upper_smoothness.value + rH.value * v)",
                "upper_smoothness.value",
            ),
            (
                "C03",
                "residual left out",
                "implicit.certificate",
                "* v) * distance + residual",
                "* v) * distance",
            ),
            (
                "C04",
                "residual taken as relative",
                "implicit.certificate",
                "residual = self.adjoint.residual * scale",
                "residual = self.adjoint.residual",
            ),
            (
                "C05",
                "|d g/d phi| not over mu",
                "implicit.certificate",
                "self.stationarity / mu.value",
                "self.stationarity",
            ),
            (
                "C06",
                "L12 not over mu",
                "implicit.certificate",
                "coupling.value / mu.value * system",
                "coupling.value * system",
            ),
            (
                "C07",
                "the sign of J v, which no residual shows",
                "implicit.pullback",
                "[-part for part in point.cross(v)]",
                "[part for part in point.cross(v)]",
            ),
            (
                "C08",
                "d f/d theta dropped",
                "implicit.pullback",
                "(left + right) / tasks",
                "right / tasks",
            ),
        ),
    ),
)
