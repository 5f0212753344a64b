"""A1: what the adaptive loop certifies is Theorem B's bound, is true, and is the share asked for.

The bound is evaluated again in NumPy at the phi and v that were returned (theory.md, section 2):

    bound = (lam12 + rJ |v|) e/mu + (L12/mu) ((lam22 + rH |v|) e/mu + |r|),
    e = |grad_phi g(phi)|,  r = grad_phi f(phi) - H(phi) v.

It depends on e and |r| alone, and on those linearly; the two sides' e differ by at most gamma
times the norms of the gradient's terms, their r by gamma (L |v| + upper_phi), gamma as in
`finite_tolerance`. The same goes for Theorem B itself, whose two sides round.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from hypergrad import CG, GradientDescent
from hypergrad.theory import Constants, Proven, solve_adaptively
from verification import instances
from verification.claims.evidence import Evidence, worst
from verification.claims.finite_steps import drawn_sizes, step_size_for
from verification.families.base import matvec, norm
from verification.instances import Instance
from verification.oracles import gradient, tolerance
from verification.oracles.rounding import unit_roundoff
from verification.planting import InSource, SourceBug
from verification.suite import Bug

LARGEST_CONDITION = 8.0
SHARE = 1e-2
STEPS, CG_STEPS = 5, 1  # of one round: few, so that both loops must be continued


@dataclass(frozen=True)
class Claimed:
    """What the loop returned.

    Attributes:
        grad: the hypergradient, (p,).
        phi: where it was taken, (*batch, q).
        v: each task's adjoint, (*batch, q).
        error: the bound on its error.
        share: of the hypergradient that this is said to be.
    """

    grad: np.ndarray
    phi: np.ndarray
    v: np.ndarray
    error: float
    share: float


@runtime_checkable
class AdaptiveSubject(Protocol):
    """An implementation of both loops, continued until the error is certified."""

    def __call__(self, instance: Instance, *, share: float, step_size: float) -> Claimed:
        """Go on until the error is at most that share of the hypergradient."""
        ...


def adaptive(instance: Instance, *, share: float, step_size: float) -> Claimed:
    """The library's `solve_adaptively`; see `AdaptiveSubject`."""
    theta, phi0, v0 = instance.tensors()
    k = instance.family.constants(instance.theta)
    known = {
        "strong_convexity": k.strong_convexity,
        "coupling": k.L12,
        "upper_coupling": k.lam12,
        "upper_smoothness": k.lam22,
        "hessian_lipschitz": k.rH,
        "coupling_lipschitz": k.rJ,
    }
    given: Any = {name: Proven(torch.tensor(value)) for name, value in known.items()}
    answer = solve_adaptively(
        instance.family.bilevel(),
        theta,
        phi0,
        constants=Constants(**given),
        nu=share,
        by=GradientDescent(steps=STEPS, step_size=step_size),
        solver=CG(max_steps=CG_STEPS, rtol=0.0),
        start=v0,
    )
    return Claimed(
        grad=answer.hypergradient.grad.numpy(),
        phi=answer.phi.numpy(),
        v=answer.v.numpy(),
        error=float(answer.error.value),
        share=answer.share,
    )


def _comparisons(subject: AdaptiveSubject, seed: int) -> Iterator[Evidence]:
    size, condition = drawn_sizes(seed)
    condition = min(condition, LARGEST_CONDITION)
    for draw in (instances.quad, instances.lc):
        yield from _of(subject, draw(seed=seed, batch=(2,), p=size, q=size, condition=condition))


def _of(subject: AdaptiveSubject, drawn: Instance) -> Iterator[Evidence]:
    family, theta = drawn.family, drawn.theta
    found = subject(drawn, share=SHARE, step_size=step_size_for(drawn))

    k, at = family.constants(theta), family.magnitudes(theta, found.phi)
    mu, v = k.strong_convexity, norm(found.v)
    e = norm(family.lower_gradient(theta, found.phi))
    rest = family.upper_gradients(theta, found.phi)[1]
    r = norm(rest - matvec(family.hessian(theta, found.phi), found.v))

    def theorem_b(e: np.ndarray, r: np.ndarray) -> float:
        system = (k.lam22 + k.rH * v) * e / mu + r
        return float(((k.lam12 + k.rJ * v) * e / mu + k.L12 / mu * system).mean())

    bound = theorem_b(e, r)
    gamma = 2 * (family.terms + 4) ** 1.5 * unit_roundoff()
    rounding = theorem_b(gamma * at.lower, gamma * (k.smoothness * v + at.upper_phi))
    rounding += gamma * bound

    def evidence(error: float, allowed: float, where: str) -> Evidence:
        name = type(family).__name__
        return Evidence("A1 certified", error, allowed, float(norm(found.grad)), f"{name}: {where}")

    yield evidence(abs(found.error - bound), rounding, "the bound, evaluated again")
    true = float(norm(found.grad - gradient(family, theta)))
    yield evidence(true, found.error + tolerance(family, theta), "the error and its bound")
    length = float(norm(found.grad))
    yield evidence(found.error / length, SHARE * (1 + gamma), "the share that was asked for")
    yield evidence(abs(found.share - found.error / length), gamma, "the share that is said")


def a1(subject: AdaptiveSubject, seed: int) -> Evidence:
    """A1: the adaptive loop's bound is Theorem B's, holds, and is the share asked for."""
    return worst(_comparisons(subject, seed))


def _bug(name: str, what: str, module: str, old: str, new: str) -> Bug:
    return Bug(name, what, InSource(SourceBug(f"hypergrad.{module}", old, new), adaptive))


BUGS: tuple[Bug, ...] = (
    _bug(
        "T01",
        "a tenfold share is accepted",
        "adaptive",
        "if share <= nu:",
        "if share <= 10 * nu:",
    ),
    _bug(
        "T02",
        "the adjoint is not continued",
        "adaptive",
        "solver=solver, start=start)",
        "solver=solver, start=None)",
    ),
    _bug(
        "T03",
        "the best task's bound instead of the mean",
        "adaptive",
        "torch.as_tensor(bounds.value).mean()",
        "torch.as_tensor(bounds.value).min()",
    ),
    _bug(
        "T04",
        "the certificate leaves out the adjoint's residual",
        "certificate",
        "* distance + residual",
        "* distance",
    ),
    _bug(
        "T05",
        "the certificate takes the gradient for the distance",
        "certificate",
        "self.stationarity / mu.value",
        "self.stationarity",
    ),
    _bug(
        "T06",
        "the certificate leaves out that J depends on phi",
        "certificate",
        "(upper_coupling.value + rJ.value * v)",
        "upper_coupling.value",
    ),
)
