"""K0 and N0: the planned numbers of steps deliver the accuracy that was asked for, and no more.

Theorem A, evaluated in NumPy at the planned steps, must be within the accuracy (theory.md, section
2); one step less must not be planned for. Where the condition number lets them be run, the error
itself is measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hypergrad.theory import Constants, Plan, Proven, plan, plan_warm
from verification.claims.certificates import proven
from verification.claims.error_bounds import FAMILIES, drawn
from verification.claims.evidence import Evidence, worst
from verification.oracles import adjoint, finite_steps, gradient
from verification.oracles.bounds import a_priori, contraction, rounding
from verification.oracles.outer import outer_constants
from verification.problems import LC
from verification.problems import drawn as instances
from verification.problems.base import norm
from verification.problems.drawn import Instance
from verification.subjects.algorithm1 import memory_reduced
from verification.subjects.bug import Bug, Kind, in_source

AFFORDABLE = 20.0  # condition up to which the planned steps are run: a few hundred
# of a logarithm, a power and their quotient, relative: K ln q with |K ln q| < 100 and 4 operations
ROUNDING = 1e-12


@dataclass(frozen=True)
class Planner:
    """Functions that plan K and N.

    Attributes:
        plan: from constants, an accuracy, |phi0 - phi*|, and |v0 - v*| or None for v0 = 0.
        plan_warm: from constants and the upper step size, K and N of Theorem 2.
    """

    plan: Callable[[Constants, float, Proven, Proven | None], Plan]
    plan_warm: Callable[[Constants, float], tuple[int, int]]


def _plan(constants: Constants, accuracy: float, distance: Proven, away: Proven | None) -> Plan:
    return plan(constants, accuracy, distance=distance, adjoint_distance=away)


def _plan_warm(constants: Constants, eta: float) -> tuple[int, int]:
    return plan_warm(constants, upper_step_size=eta)


PLANNER = Planner(plan=_plan, plan_warm=_plan_warm)


def planned_steps(subject: Planner, seed: int) -> Evidence:
    """The planned K0 and N0 make the hypergradient as exact as was asked for, and are no larger."""
    return worst([*_a_priori(subject, seed), *_measured(subject, seed), _warm(subject, seed)])


def _question(
    rng: np.random.Generator, instance: Instance, warm: bool
) -> tuple[Constants, float, np.ndarray, np.ndarray | None]:
    """Constants, accuracy, |phi0 - phi*| and |v0 - v*| or None."""
    family, theta = instance.family, instance.theta
    distance = norm(instance.phi0 - family.minimiser(theta))
    k = family.constants(theta, radius=float(distance.max()))
    in_phi = family.upper_gradients(theta, family.minimiser(theta))[1]
    constants = proven(k, upper_gradient=norm(in_phi))
    accuracy = float(k.c1.max() * distance.max() * 10 ** rng.uniform(-6, -1))
    away = norm(instance.v0 - adjoint(family, theta)) if warm else None
    return constants, accuracy, distance, away


def _ask(
    subject: Planner, question: tuple[Constants, float, np.ndarray, np.ndarray | None]
) -> Plan:
    constants, accuracy, distance, away = question
    known = None if away is None else Proven(torch.tensor(away))
    return subject.plan(constants, accuracy, Proven(torch.tensor(distance)), known)


def _a_priori(subject: Planner, seed: int) -> Iterator[Evidence]:
    """Without running anything: Theorem A at the plan, and at one step less."""
    rng = np.random.default_rng([seed, 3])
    for index, name in enumerate(FAMILIES):
        warm = (seed + index) % 2 == 1
        instance = drawn(rng, name)
        family, theta = instance.family, instance.theta
        question = _question(rng, instance, warm)
        _, accuracy, distance, away = question
        found = _ask(subject, question)
        counts = {"steps": found.steps, "max_steps": found.max_steps}
        where = f"{name}, {'warm' if warm else 'cold'} adjoint, K0, N0 = {tuple(counts.values())}"
        v0 = instance.v0 if warm else None
        bound = a_priori(family, theta, instance.phi0, v0, **counts, step_size=found.step_size)
        yield _within("Theorem A at the plan", float(bound.max()), accuracy, where)
        k = family.constants(theta, radius=float(distance.max()))
        rate = contraction(k, found.step_size) ** (found.steps - 1)
        if found.steps > 0:
            fewer = float((k.c1 * rate * distance).max())
            yield _within("half the accuracy against K0 - 1 steps", accuracy / 2, fewer, where)
        root = np.sqrt(k.condition)
        # what 2 tau^N multiplies in the proof of N0, its share of the descent error included
        if away is None:
            in_phi = family.upper_gradients(theta, family.minimiser(theta))[1]
            size = k.L12 / k.strong_convexity * norm(in_phi) + accuracy / 2
        else:
            size = root * (k.L12 * away + accuracy / 2)
        if found.max_steps > 1:
            fewer = float((2 * ((root - 1) / (root + 1)) ** (found.max_steps - 1) * size).max())
            yield _within("half the accuracy against N0 - 1 steps", accuracy / 2, fewer, where)


def _measured(subject: Planner, seed: int) -> Iterator[Evidence]:
    """Algorithm 1 with the planned steps."""
    rng = np.random.default_rng([seed, 4])
    draw = (instances.quad, instances.lc)[seed % 2]
    for warm in (False, True):
        condition = float(rng.uniform(2.0, AFFORDABLE))
        instance = draw(seed=int(rng.integers(2**32)), batch=(2,), p=3, q=4, condition=condition)
        family, theta = instance.family, instance.theta
        question = _question(rng, instance, warm)
        accuracy = question[1]
        found = _ask(subject, question)
        counts = {"steps": found.steps, "max_steps": found.max_steps}
        tensors = instance.tensors()
        answer = memory_reduced(
            family.bilevel(),
            tensors[0],
            tensors[1],
            tensors[2] if warm else None,
            **counts,
            step_size=found.step_size,
        )
        v0 = instance.v0 if warm else np.zeros_like(instance.v0)
        end = finite_steps(family, theta, instance.phi0, v0, **counts, step_size=found.step_size)
        yield Evidence(
            claim="planned accuracy",
            error=float(np.linalg.norm(answer.numpy() - gradient(family, theta))),
            tolerance=accuracy + float(rounding(family, theta, end.phi, end.v).mean()),
            scale=accuracy,
            where=f"measured, {type(family).__name__}, {'warm' if warm else 'cold'} adjoint",
        )


def _warm(subject: Planner, seed: int) -> Evidence:
    """K0 and N0 of Theorem 2 against the formula evaluated in NumPy, one LC task."""
    rng = np.random.default_rng([seed, 5])
    instance = instances.lc(
        seed=int(rng.integers(2**32)),
        batch=(),
        p=3,
        q=4,
        condition=float(10 ** rng.uniform(0.5, 3)),
    )
    family = instance.family
    assert isinstance(family, LC)
    outer = outer_constants(family, instance.theta)
    k = family.constants(instance.theta)
    eta = float(10 ** rng.uniform(1, 3)) / outer.smoothness
    constants = proven(
        k,
        adjoint_norm=np.asarray(k.C_f / k.strong_convexity),
        hessian_lipschitz_theta=np.asarray(k.rH * np.linalg.norm(family.W, 2)),
    )
    expected = outer.warm_counts(eta, 1 / outer.L)
    got = subject.plan_warm(constants, eta)
    return Evidence(
        claim="planned accuracy",
        error=float(np.abs(np.subtract(got, expected)).max()),
        tolerance=0.5,
        scale=float(max(expected)),
        where=f"Theorem 2: planned {got}, formula {expected}",
    )


def _within(what: str, error: float, tolerance: float, where: str) -> Evidence:
    return Evidence(
        claim="planned accuracy",
        error=error,
        tolerance=tolerance * (1 + ROUNDING),
        scale=error,
        where=f"{what}; {where}",
    )


_PLACES = (
    ("P01", "K for twice the accuracy", "2 * rates.c1", "rates.c1"),
    ("P02", "N for twice the accuracy", "2 + 4 * rates.s", "2 + 2 * rates.s"),
    ("P03", "s left out of N", "rates.s * b", "b"),
    ("P04", "sqrt(kappa) left out of a warm N", "rates.root * (2", "(2"),
    ("P05", "rJ left out of c1", "c1=lam12 + rJ * V", "c1=lam12"),
    ("P06", "rH left out of c1", "s * (lam22 + rH * V)", "s * lam22"),
    ("P07", "half the rate of CG", "2 * torch.atanh", "torch.atanh"),
    ("P08", "rounded down", ".ceil()", ".floor()"),
    ("P09", "half the steps", "needed.max()", "0.5 * needed.max()"),
    ("P10", "Theorem 2 with 9 for 18", "18 * upper_step_size", "9 * upper_step_size"),
    ("P11", "Theorem 2 with 2 for 8", "(8 * upper_step_size", "(2 * upper_step_size"),
)

KIND = Kind(
    "planner",
    PLANNER,
    tuple(
        Bug(
            name,
            what,
            "planned steps",
            Planner(
                plan=in_source(PLANNER.plan, ("theory.planning", old, new)),
                plan_warm=in_source(PLANNER.plan_warm, ("theory.planning", old, new)),
            ),
        )
        for name, what, old, new in _PLACES
    ),
)
