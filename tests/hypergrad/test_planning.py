"""The planner: its formulas are the least that the theorems need, and it delivers what it says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hypergrad import CG, GradientDescent, hypergradient
from hypergrad.constants import Constants, Estimated, Proven
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.theory.planning import Plan, a_priori_bound, plan, plan_warm
from tests.hypergrad.bounds import FAMILIES, algorithm1, constants_of, remembered_minimisers
from verification.problems.base import norm
from verification.subjects.planting import SourceBug, planted

ENTRIES: dict[str, Any] = {
    "strong_convexity": Proven(0.2),
    "smoothness": Proven(7.0),
    "coupling": Proven(1.3),
    "upper_coupling": Proven(0.4),
    "upper_smoothness": Proven(2.1),
    "hessian_lipschitz": Proven(0.3),
    "coupling_lipschitz": Proven(0.6),
    "adjoint_norm": Proven(1.7),
    "upper_gradient": Proven(0.9),
    "hessian_lipschitz_theta": Proven(0.5),
}


def constants(**other: Any) -> Constants:
    return Constants(**{**ENTRIES, **other})


def drawn(rng: np.random.Generator) -> dict[str, float]:
    values = {name: float(10 ** rng.uniform(-2, 2)) for name in ENTRIES}
    values["smoothness"] = values["strong_convexity"] * float(10 ** rng.uniform(0, 3))
    return values


def least(reached: Any) -> int:
    """The least whole number from 0 at which a falling quantity is low enough, by trying."""
    number = 0
    while not reached(number):
        number += 1
    return number


def by_trial(k: dict[str, float], delta: float, distance: float, away: float | None) -> Any:
    """K and N from Theorem A's terms, each made small enough step by step (step size 1/L)."""
    mu, L = k["strong_convexity"], k["smoothness"]
    s, q = k["coupling"] / mu, 1 - mu / L
    tau = (math.sqrt(L / mu) - 1) / (math.sqrt(L / mu) + 1)
    V = k["adjoint_norm"]
    c1 = k["upper_coupling"] + k["coupling_lipschitz"] * V
    c1 += s * (k["upper_smoothness"] + k["hessian_lipschitz"] * V)
    steps = least(lambda K: c1 * q**K * distance <= delta / 2)
    # what multiplies 2 tau^N: s (b* + lam22 e), where s lam22 e <= c1 e <= delta/2; so too from v0
    if away is None:
        size = s * k["upper_gradient"] + delta / 2
    else:
        size = math.sqrt(L / mu) * (k["coupling"] * away + delta / 2)
    return steps, least(lambda N: 2 * tau**N * size <= delta / 2)


def disagreements(count: int = 150) -> int:
    """How often plan() and the search by trial differ."""
    rng = np.random.default_rng(3)
    wrong = 0
    for index in range(count):
        k = drawn(rng)
        delta, distance, away = (float(10 ** rng.uniform(-4, 2)) for _ in range(3))
        start = away if index % 2 else None
        found = plan(
            Constants(**{name: Proven(value) for name, value in k.items()}),
            delta,
            distance=Proven(distance),
            adjoint_distance=None if start is None else Proven(start),
        )
        assert isinstance(found.bound, Proven)
        wrong += (found.steps, found.max_steps) != by_trial(k, delta, distance, start)
        wrong += float(found.bound.value) > delta * (1 + 1e-12)
    return wrong


def test_the_formulas_are_the_least_that_suffices() -> None:
    assert disagreements() == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 * rates.c1", "rates.c1"),
        ("2 + 4 * rates.s", "1 + 4 * rates.s"),
        ("2 + 4 * rates.s", "2 + 2 * rates.s"),
        ("rates.s * b", "b"),
        ("rates.root * (2", "(2"),
        ("c1=lam12 + rJ * V", "c1=lam12"),
        ("s * (lam22 + rH * V)", "s * lam22"),
        ("2 * torch.atanh", "torch.atanh"),
        ("alpha * mu, 2 - alpha * L", "alpha * L, 2 - alpha * mu"),
        (".ceil()", ".floor()"),
        ("needed.max()", "0.5 * needed.max()"),
        ("rates.q**steps", "rates.q ** (steps - 1)"),
        ("number(b) + lam22", "9 * number(b) + lam22"),
    ],
)
def test_a_wrong_formula_is_noticed(old: str, new: str) -> None:
    with planted(SourceBug("hypergrad.theory.planning", old, new)):
        assert disagreements() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_planned_is_delivered(family: str) -> None:
    rng = np.random.default_rng(17)
    ratios = []
    for _ in range(4):
        with remembered_minimisers():
            instance = FAMILIES[family](rng, 16, int(rng.integers(2, 7)))
            minimiser = instance.family.minimiser(instance.theta)
            distance = torch.tensor(norm(instance.phi0 - minimiser))
            k = constants_of(instance, radius=float(distance.max()))
            size = norm(instance.family.upper_gradients(instance.theta, minimiser)[0]).mean()
            delta = float(size * 10 ** rng.uniform(-3, 0))
            made = plan(k, delta, distance=Proven(distance))
            run = algorithm1(
                instance,
                steps=made.steps,
                max_steps=made.max_steps,
                step_size=made.step_size,
                warm=False,
            )
        assert isinstance(made.bound, Proven)
        assert bool((torch.as_tensor(made.bound.value) <= delta * (1 + 1e-12)).all())
        assert bool((run.error <= delta + run.slack).all())
        ratios.append(delta / run.error)
    median = float(torch.cat(ratios).median())
    print(f"\nplan on {family}: median accuracy/error {median:.3g}")  # noqa: T201


def test_theorem_2_by_hand() -> None:
    eta, mu, L = 0.4, 0.2, 7.0
    s = 1.3 / mu
    c1 = 0.4 + 0.6 * 1.7 + s * (2.1 + 0.3 * 1.7)
    l_v = (0.4 + 2.1 * s + (0.5 + 0.3 * s) * 1.7) / mu
    tau = (math.sqrt(L / mu) - 1) / (math.sqrt(L / mu) + 1)
    steps, max_steps = plan_warm(constants(), upper_step_size=eta)
    q = 1 - mu / L
    # the proof's two requirements: r <= 1/4 and eta w <= 1/4
    beta = 2 * math.sqrt(L / mu) * tau**max_steps
    assert max((2 + beta) * q**steps, beta) <= 1 / 4
    assert eta * ((2 + beta) * c1 * s * q**steps + 1.3 * beta * l_v) <= 1 / 4
    assert steps == math.ceil(math.log(max(9, 18 * eta * c1 * s)) / -math.log(q))
    goal = 2 * math.sqrt(L / mu) * max(4, 8 * eta * 1.3 * l_v)
    assert max_steps == math.ceil(math.log(goal) / -math.log(tau))


def test_a_perfectly_conditioned_problem_takes_one_step_each() -> None:
    k = constants(smoothness=ENTRIES["strong_convexity"])
    made = plan(k, 1e-9, distance=Proven(1.0))
    assert (made.steps, made.max_steps) == (1, 1)
    assert isinstance(made.bound, Proven)
    assert float(made.bound.value) == 0
    nothing = a_priori_bound(k, steps=0, max_steps=0, step_size=5.0, distance=Proven(0.0))
    assert float(nothing.value) == pytest.approx(1.3 / 0.2 * 0.9)  # s b*: v stays at zero


def test_a_start_that_is_good_enough_takes_no_descent() -> None:
    assert plan(constants(), 1e3, distance=Proven(0.1)).steps == 0


def test_the_worst_task_decides() -> None:
    mu = torch.tensor([2.0, 0.2], dtype=torch.float64)
    both = plan(constants(strong_convexity=Proven(mu)), 1e-3, distance=Proven(1.0))
    worst = plan(constants(), 1e-3, distance=Proven(1.0))
    assert (both.steps, both.max_steps) == (worst.steps, worst.max_steps)
    assert torch.as_tensor(both.bound.value).shape == (2,)


def test_a_plan_from_an_estimate_is_an_estimate() -> None:
    def made(**other: Any) -> Plan:
        return plan(constants(**other), 1e-3, distance=Proven(1.0))

    assert isinstance(made().bound, Proven)
    assert isinstance(made(smoothness=Estimated(7.0)).bound, Estimated)
    assert isinstance(plan(constants(), 1e-3, distance=Estimated(1.0)).bound, Estimated)


def test_a_plan_fits_the_solvers() -> None:
    instance = FAMILIES["Quad"](np.random.default_rng(0), 2, 3)
    made = plan(constants_of(instance), 1e-2, distance=Proven(10.0))
    theta, phi0, _ = instance.tensors()
    problem = instance.family.bilevel()
    by = GradientDescent(max_steps=made.steps, step_size=made.step_size)
    phi = by.minimise(problem.lower, theta, phi0).phi
    hypergradient(problem, theta, phi, solver=CG(max_steps=made.max_steps, rtol=0.0))


def test_refusals() -> None:
    for name in ("smoothness", "adjoint_norm", "upper_gradient"):
        with pytest.raises(InputError, match=f"needs Constants\\(..., {name}=...\\)"):
            plan(constants(**{name: None}), 1e-3, distance=Proven(1.0))
    with pytest.raises(InputError, match="hessian_lipschitz_theta"):
        plan_warm(constants(hessian_lipschitz_theta=None), upper_step_size=0.1)
    with pytest.raises(InputError, match="accuracy=0.0; it must be positive"):
        plan(constants(), 0.0, distance=Proven(1.0))
    with pytest.raises(InputError, match=r"step_size is 0.5.*2/L is 0.286"):
        plan(constants(), 1e-3, distance=Proven(1.0), step_size=0.5)
    with pytest.raises(InputError, match="upper_step_size=-1.0"):
        plan_warm(constants(), upper_step_size=-1.0)
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match=r"^distance is .*finite and not negative"):
            plan(constants(), 1e-3, distance=Proven(bad))
        with pytest.raises(InputError, match=r"^adjoint_distance is .*finite and not negative"):
            plan(constants(), 1e-3, distance=Proven(1.0), adjoint_distance=Proven(bad))
        with pytest.raises(InputError, match="accuracy="):
            plan(constants(), bad, distance=Proven(1.0))
        with pytest.raises(InputError, match="upper_step_size="):
            plan_warm(constants(), upper_step_size=bad)
        with pytest.raises(InputError, match="strong_convexity is"):
            constants(strong_convexity=Proven(bad))
    with pytest.raises(InputError, match="steps=-1"):
        a_priori_bound(constants(), steps=-1, max_steps=1, step_size=0.1, distance=Proven(1.0))


@pytest.mark.parametrize(
    ("given", "accuracy", "distance"),
    [
        ({"strong_convexity": 1e-300}, 1e-3, 1.0),  # K, about 1e305
        ({"strong_convexity": 1e-17}, 1e-3, 1.0),  # K, just too large: about 1e20
        ({}, 5e-324, 1.0),  # an infinite reduction
        ({}, 1e-3, 1e308),
        ({"coupling_lipschitz": 1e200, "adjoint_norm": 1e200}, 1e-3, 0.0),  # infinity times zero
    ],
)
def test_steps_beyond_counting_are_refused(
    given: dict[str, float], accuracy: float, distance: float
) -> None:
    known = constants(**{name: Proven(value) for name, value in given.items()})
    with pytest.raises(InputError, match=r"steps would be needed, where at most 2\^53"):
        plan(known, accuracy, distance=Proven(distance))
    if given:
        with pytest.raises(InputError, match=r"steps would be needed, where at most 2\^53"):
            plan_warm(known, upper_step_size=0.1)


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_task_that_no_step_brings_nearer_is_refused(tasks: int) -> None:
    """alpha mu is 5e-324 for the first task, whose rate is 0 then, and 0.1 for the second."""
    mu = torch.tensor([5e-24, 1e299], dtype=torch.float64)[:tasks]
    L = torch.tensor([1.0, 1e299], dtype=torch.float64)[:tasks]
    known = constants(strong_convexity=Proven(mu), smoothness=Proven(L))
    with pytest.raises(InputError, match=r"inf steps would be needed"):
        plan(known, 1e-3, distance=Proven(1.0), step_size=1e-300)


def test_constants_that_overflow_together_bound_nothing() -> None:
    """c1 is infinite; that one step of perfect descent then leaves 0 of it is no number either."""
    huge = constants(
        coupling_lipschitz=Proven(1e200),
        adjoint_norm=Proven(1e200),
        smoothness=ENTRIES["strong_convexity"],
    )
    with pytest.raises(InputError, match=r"nan steps would be needed"):
        plan(huge, 1e-3, distance=Proven(1.0))
    for steps in (0, 1):  # infinite, and not a number
        with pytest.raises(NotFiniteError, match="the a-priori bound is not finite"):
            a_priori_bound(huge, steps=steps, max_steps=1, step_size=5.0, distance=Proven(1.0))


def test_a_bound_on_steps_beyond_counting_is_refused() -> None:
    for steps, max_steps in ((2**53 + 1, 1), (1, 2**53 + 1), (10**400, 1)):
        with pytest.raises(InputError, match=r"or above 2\^53"):
            a_priori_bound(
                constants(), steps=steps, max_steps=max_steps, step_size=0.1, distance=Proven(1.0)
            )
    most = a_priori_bound(
        constants(), steps=2**53, max_steps=2**53, step_size=0.1, distance=Proven(1.0)
    )
    assert float(most.value) == 0
