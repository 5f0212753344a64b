"""torch.func.hessian through `attach` is the Hessian of F.

The derivative rules of the library's nodes (`implicit/nodes.py`, `implicit/derivatives.py`) are put
together by torch: forward over reverse takes the forward rule of the pullback, reverse over reverse
its backward rule, and reverse over forward the backward rule of the derivatives of g. All are held
to the oracle, which differentiates by a complex step. Forward over forward is refused.

Quad is blind to every derivative of H and J. Exp has J alone depend on theta and phi. LC and Log
have all of them.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from hypergrad import Bilevel, Cholesky, attach
from verification.claims.evidence import Evidence, worst
from verification.oracles.second import hessian, hessian_tolerance
from verification.problems import drawn as instances
from verification.subjects.bug import Kind, source_bugs

TensorBilevel = Bilevel[torch.Tensor, torch.Tensor]

# The ways to a second derivative, in the order of the subject's answers.
WAYS = ("forward over reverse", "reverse over reverse", "reverse over forward")
FAMILIES = ("lc", "log", "exp", "quad")  # the first has all derivatives
CONDITION = 1e4


@runtime_checkable
class SecondOrderSubject(Protocol):
    """An implementation of the Hessian of the mean over tasks."""

    def __call__(
        self,
        problem: TensorBilevel,
        theta: Float[torch.Tensor, " p"],
        phi: Float[torch.Tensor, "*batch q"],
    ) -> Float[torch.Tensor, "3 p p"]:
        """The Hessian of F by each of `WAYS`, phi being the minimiser."""
        ...


def through_attach(
    problem: TensorBilevel, theta: torch.Tensor, phi: torch.Tensor
) -> Float[torch.Tensor, "3 p p"]:
    """The library's: `attach` under torch.func."""

    def F(theta: torch.Tensor) -> torch.Tensor:
        moved = attach(problem.lower, theta, phi, solver=Cholesky(), watch=lambda _: None)
        return problem.upper(theta, moved).mean()

    rev, fwd = torch.func.jacrev, torch.func.jacfwd
    return torch.stack([torch.func.hessian(F)(theta), rev(rev(F))(theta), rev(fwd(F))(theta)])


def hessian_of_F(subject: SecondOrderSubject, seed: int) -> Evidence:
    """torch.func.hessian of F is exact to derived rounding; four families in turn, kappa to 1e4."""
    name = FAMILIES[seed % len(FAMILIES)]
    instance = instances.of_family(name, seed=seed, condition=CONDITION)
    family, theta = instance.family, instance.theta
    minimiser = torch.tensor(family.minimiser(theta))
    found = subject(family.bilevel(), instance.tensors()[0], minimiser).numpy()
    oracle, allowed = hessian(family, theta), hessian_tolerance(family, theta)
    return worst(
        Evidence(
            claim="Hessian of F",
            error=float(np.linalg.norm(answer - oracle)),
            tolerance=allowed,
            scale=float(np.linalg.norm(oracle)),
            where=f"{way} on {type(family).__name__}, batch {family.batch}",
        )
        for way, answer in zip(WAYS, found, strict=True)
    )


KIND = Kind(
    "second derivatives",
    through_attach,
    source_bugs(
        through_attach,
        "Hessian of F",
        (
            (
                "H01",
                "the minimiser moves against its derivative in forward mode",
                "implicit.nodes",
                "c = -flatten(mixed[count:], values.shape)",
                "c = flatten(mixed[count:], values.shape)",
            ),
            (
                "H02",
                "Solve, backward: J's part of v's cotangent is missing",
                "implicit.nodes",
                "own = u - flatten(mixed[count:], v.shape[:-1])",
                "own = u - 0 * flatten(mixed[count:], v.shape[:-1])",
            ),
            (
                "H03",
                "Solve, backward: H's dependence on theta and phi is missing",
                "implicit.nodes",
                "Direction(s, phi_parts(call.problem, point, w)),",
                "Direction(theta=s),",
            ),
            (
                "H04",
                "Cross, backward: J's dependence on theta and phi is missing",
                "implicit.nodes",
                "Direction(s, phi_parts(call.problem, point, w)),",
                "Direction(phi=phi_parts(call.problem, point, w)),",
            ),
            (
                "H05",
                "Solve, backward: the right-hand side gets nothing",
                "implicit.nodes",
                "return *(-part for part in third), w",
                "return *(-part for part in third), 0 * w",
            ),
            (
                "H06",
                "Solve, forward: H's change is missing",
                "implicit.nodes",
                "c = dc - flatten(turned[count:], v.shape[:-1])",
                "c = dc - 0 * flatten(turned[count:], v.shape[:-1])",
            ),
            (
                "H07",
                "Solve, forward: the right-hand side's change is missing",
                "implicit.nodes",
                "c = dc - flatten(turned[count:], v.shape[:-1])",
                "c = 0 * dc - flatten(turned[count:], v.shape[:-1])",
            ),
            (
                "H08",
                "Cross, forward: J's change is missing",
                "implicit.nodes",
                "dg = (-(left + right) for left, right in zip(turned, pulled, strict=True))",
                "dg = (-right for left, right in zip(turned, pulled, strict=True))",
            ),
            (
                "H09",
                "Cross, forward: v's change is missing",
                "implicit.nodes",
                "dg = (-(left + right) for left, right in zip(turned, pulled, strict=True))",
                "dg = (-left for left, right in zip(turned, pulled, strict=True))",
            ),
            (
                "H10",
                "derivatives of g, forward: theta's change is missing",
                "implicit.nodes",
                "along = Direction(tuple(at[:count]), tuple(at[count:]))",
                "along = Direction(phi=tuple(at[count:]))",
            ),
            (
                "H11",
                "derivatives of g, forward: phi's change is missing",
                "implicit.nodes",
                "along = Direction(tuple(at[:count]), tuple(at[count:]))",
                "along = Direction(theta=tuple(at[:count]))",
            ),
            (
                "H12",
                "derivatives of g, backward: the point's own part is missing",
                "implicit.derivatives",
                "grads += derivative(problem, tensors[:total], [*known, new])",
                "grads += [torch.zeros_like(leaf) for leaf in tensors[:total]]",
            ),
            (
                "H13",
                "derivatives of g, backward: the cotangent of H's part is missing",
                "implicit.derivatives",
                "new = Direction(cotangents[:count], cotangents[count:])",
                "new = Direction(theta=cotangents[:count])",
            ),
        ),
    ),
)
