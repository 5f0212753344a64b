"""Claims and planted bugs one by one; all of them together are `python -m verification run`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from hypergrad import CG
from verification.claims import Evidence, against_finite_oracle, worst
from verification.claims.planner import Planner
from verification.problems.drawn import Instance, pick, quad
from verification.problems.profiles import examples
from verification.problems.strategies import batches, lcs, quads
from verification.subjects.algorithm1 import memory_reduced
from verification.subjects.bugs import ALGORITHM
from verification.subjects.planting import InSource, SnippetError, SourceBug, planted
from verification.suite import runner
from verification.suite.registry import suite

SUITE = suite()
BUGS = [(kind, bug) for kind in SUITE.kinds for bug in kind.bugs]


def put(claim: str, subject: object, seed: int) -> Evidence:
    return runner.put(SUITE.entry(claim), subject, seed, SUITE.allowance("full"))


@pytest.mark.parametrize("name", ["finite steps on Quad", "exact arithmetic"])
def test_the_mildest_bugs_are_no_near_miss(name: str) -> None:
    """Single precision and damping by 1e-8 mu; `python -m verification run` has all the others."""
    for bug in ("M19", "M20"):
        evidence = put(name, SUITE.entry(name).bug(bug).subject, 0)
        assert evidence.ratio > 50, str(evidence)  # two decades off


def test_softmax_heads_notice() -> None:
    # Newton takes the gradient where its own direction does not descend, and an easy problem is
    # solved to round-off by that: N02 and N03 fall to the harder of two drawn heads only.
    entry = SUITE.entry("softmax heads")
    for bug in ("N02", "N03"):
        found = (put(entry.name, entry.bug(bug).subject, seed) for seed in range(2))
        assert not all(evidence.holds for evidence in found), bug


@settings(max_examples=examples(8))
@given(quads(p=(1, 4), q=(1, 6), condition=100.0, batch=batches(largest=2)))
def test_finite_steps_on_quad_in_any_batch_shape(drawn: Instance) -> None:
    evidence = against_finite_oracle("any batch", memory_reduced, drawn)
    assert evidence.holds, str(evidence)


@settings(max_examples=examples(8))
@given(lcs(p=(1, 4), q=(1, 6), condition=100.0, batch=batches(largest=2)))
def test_finite_steps_on_lc_in_any_batch_shape(drawn: Instance) -> None:
    evidence = against_finite_oracle("any batch", memory_reduced, drawn)
    assert evidence.holds, str(evidence)


def test_all_planted_bugs_of_the_theory_note_are_here() -> None:
    # M13 to M15 are bugs of a sampler of tasks, which hypergrad does not have
    wanted = {*range(1, 13), *range(16, 26)}
    assert {f"M{number:02d}" for number in wanted} <= {bug.name for bug in ALGORITHM.bugs}


def test_every_source_bug_finds_its_line() -> None:
    lost, found = [], 0
    for kind, bug in BUGS:
        subject = bug.subject.plan if isinstance(bug.subject, Planner) else bug.subject
        for change in subject.bugs if isinstance(subject, InSource) else ():
            found += 1
            try:
                change.plan()
            except SnippetError as error:
                lost.append(f"{kind.name}, {bug}: {error}")
    assert not lost, "\n".join(lost)
    assert found > 60


def test_a_bug_is_gone_when_its_context_ends() -> None:
    bug = SourceBug("hypergrad.linear.cg_single", "range(budget)", "range(budget - 1)")
    A = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    b = torch.ones(3, dtype=torch.float64)
    honest = CG(max_steps=2, rtol=0.0).solve(lambda v: A @ v, b).x

    def planted_and_failing() -> None:
        with planted(bug):
            assert not torch.equal(CG(max_steps=2, rtol=0.0).solve(lambda v: A @ v, b).x, honest)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        planted_and_failing()
    assert torch.equal(CG(max_steps=2, rtol=0.0).solve(lambda v: A @ v, b).x, honest)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("no such text", "0 times; a bug is planted where it occurs once"),
        ("active", "a bug is planted where it occurs once"),
        ("class CG:", "outside its functions"),
    ],
)
def test_a_bug_that_cannot_be_planted_is_refused(old: str, message: str) -> None:
    with pytest.raises(SnippetError, match=message):
        SourceBug("hypergrad.linear.cg", old, "").plan()


def test_a_subject_that_returns_nan_fails() -> None:
    def broken(*args: object, **kwargs: object) -> torch.Tensor:
        return torch.full((drawn_size,), torch.nan, dtype=torch.float64)

    drawn_size = 3
    instance = quad(seed=0, batch=(2,), p=drawn_size, q=3, condition=10.0)
    assert not against_finite_oracle("any", broken, instance).holds


def test_evidence_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="compares nothing"):
        worst([])


def test_picking_tasks_picks_all_their_parts() -> None:
    instance = quad(seed=0, batch=(3,), p=2, q=3, condition=10.0)
    picked = pick(instance, np.array([2, 0]))
    assert picked.family.batch == (2,)
    assert (picked.phi0[1] == instance.phi0[0]).all()
    both = picked.family.lower_gradient(instance.theta, picked.phi0)
    all_three = instance.family.lower_gradient(instance.theta, instance.phi0)
    assert np.allclose(both, all_three[[2, 0]], rtol=1e-14, atol=0)


def test_a_claim_is_a_function_of_its_seed() -> None:
    found = put("finite steps on Quad", memory_reduced, 7)
    assert put("finite steps on Quad", memory_reduced, 7) == found
    assert put("finite steps on Quad", memory_reduced, 8).scale != found.scale
