"""At the exact minimiser the library's hypergradient is that of the implicit function theorem.

On drawn problems of all families, batch shapes (), (T,) and (S, T), kappa to 1e6, in float64; the
tolerance is theory.md's 1e2 u kappa Xi.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypergrad import Cholesky, Newton
from tests.verification.subjects import LongUnrolled, attached, functional, krylov
from verification.claims import Evidence, ExactSubject, against_exact_oracle
from verification.claims.exact_solves import minimum, solved
from verification.oracles import gradient
from verification.oracles import tolerance as allowance
from verification.problems import drawn as instances
from verification.problems.drawn import Instance, of_family
from verification.problems.profiles import examples
from verification.problems.strategies import anything, lcs, quads

SEEDS = 20
SUBJECTS: dict[str, ExactSubject] = {
    "hypergradient with Cholesky": functional,
    "hypergradient with CG": krylov,
    "attach and backward": attached,
}


@pytest.mark.parametrize("family", instances.FAMILIES)
def test_every_way_agrees_with_the_exact_hypergradient(family: str) -> None:
    # 4 families x 20 drawn problems; the minimiser is found once and handed to all three
    for seed in range(SEEDS):
        drawn = of_family(family, seed=seed)
        theta, phi0, _ = drawn.tensors()
        phi = minimum(drawn.family.bilevel(), theta, phi0)
        solved = replace(drawn, phi0=phi.numpy())
        evidence = against_exact_oracle(SUBJECTS, solved)
        assert evidence.holds, f"of_family({family!r}, seed={seed}): {evidence}"


def test_the_problems_are_as_many_and_as_hard_as_is_said() -> None:
    shapes: Counter[int] = Counter()
    conditions = []
    with instances.gathered_tasks() as tasks:
        for family in instances.FAMILIES:
            for seed in range(SEEDS):
                drawn = of_family(family, seed=seed)
                k = drawn.family.constants(drawn.theta)
                conditions.append(float(k.condition.max()))
                shapes[len(drawn.family.batch)] += 1
    assert len(set(conditions)) >= 75  # different problems: kappa is a function of all of H
    assert len(tasks) >= 150
    assert sum(kappa > 1e4 for kappa in conditions) >= 15
    assert max(conditions) > 0.5e6
    assert min(shapes.values()) >= 15, shapes


@settings(max_examples=examples(10))
@given(anything())
def test_it_agrees_on_whatever_hypothesis_finds(drawn: Instance) -> None:
    # fewer and milder problems than those of the seeds; a failure shrinks to a readable one
    evidence = against_exact_oracle({"solved": solved}, drawn)
    assert evidence.holds, str(evidence)


@settings(max_examples=examples(10))
@given(anything(condition=20.0))
def test_a_long_unrolled_run_agrees_too(drawn: Instance) -> None:
    unrolled = LongUnrolled(drawn.family, drawn.theta)
    evidence = against_exact_oracle({"Unrolled": unrolled}, drawn)
    assert evidence.holds, str(evidence)


@given(st.one_of(quads(q=(2, 8)), lcs(q=(2, 8))))
def test_the_tolerance_is_small_beside_the_answer(drawn: Instance) -> None:
    # A bound that lets anything pass shows nothing. At kappa = 1e6 it stays below 1e-6 of the
    # answer, or of the terms the answer is the sum of where they cancel.
    family, theta = drawn.family, drawn.theta
    terms = family.magnitudes(theta, family.minimiser(theta)).upper_theta
    size = max(float(np.linalg.norm(gradient(family, theta))), float(terms.mean()))
    assert allowance(family, theta) < 1e-6 * size


def test_a_minimiser_found_loosely_is_noticed() -> None:
    # Newton stopped at 1e-3 of the first gradient, far above rounding
    drawn = instances.lc(seed=4, batch=(2,), p=3, q=4, condition=30.0)
    theta, phi0, _ = drawn.tensors()
    loose = Newton(rtol=1e-3, solver=Cholesky())
    phi = loose.minimise(drawn.family.bilevel().lower, theta, phi0).phi
    evidence = against_exact_oracle(SUBJECTS, replace(drawn, phi0=phi.numpy()))
    assert not evidence.holds
    assert evidence.ratio > 1e3, str(evidence)
    with pytest.raises(ValueError, match="compare nothing"):
        against_exact_oracle({}, drawn)


def test_evidence_of_a_wrong_answer_fails_and_says_so() -> None:
    wrong = Evidence("c", error=2e-3, tolerance=1e-12, scale=1.0, where="here")
    assert not wrong.holds
    assert "FAILS; error 2.00e-03, tolerance 1.00e-12" in str(wrong)
    assert not Evidence("c", error=float("nan"), tolerance=1.0, scale=1.0, where="here").holds


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("inf"), float("nan")])
def test_evidence_needs_a_tolerance_that_means_something(tolerance: float) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        Evidence("c", error=0.0, tolerance=tolerance, scale=1.0, where="here")
