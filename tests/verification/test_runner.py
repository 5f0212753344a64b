"""The runner on toy suites: what passes, what fails a run, and that processes change nothing."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from verification.claims import Evidence
from verification.problems import drawn as instances
from verification.problems import kinked
from verification.subjects.bug import Bug, Kind
from verification.subjects.bugs import ALGORITHM
from verification.subjects.planting import InSource, SourceBug
from verification.suite.model import ALARMS, Entry, Size, Suite
from verification.suite.registry import suite
from verification.suite.runner import run

# The toy: a subject is a number that must be within 1 of the seed's.


def near(subject: float, seed: int, size: float) -> Evidence:
    instances.quad(seed=seed // 2, batch=(2,), p=1, q=2, condition=2.0)
    number = float(np.random.default_rng(seed).uniform(-0.5, 0.5))
    return Evidence("near", abs(subject - number), 1.0, 1.0, f"seed {seed}")


def at_most_one(subject: float, seed: int, size: float) -> Evidence:
    if subject == 13:
        raise RuntimeError("thirteen")
    return Evidence("at most one", max(0.0, subject), 1.0, 1.0, "anywhere")


def anything_goes(subject: float, seed: int, size: float) -> Evidence:
    return Evidence("anything goes", 0.0, 1.0, 1.0, "nowhere")


def planting(subject: object, seed: int, size: float) -> Evidence:
    assert callable(subject)
    return Evidence("planting", abs(float(subject()) - 1), 1.0, 1.0, "the subject")


def toy(
    *bugs: float, honest: float = 0.0, more: tuple[Entry, ...] = (), statistical: bool = False
) -> Suite:
    seeds: dict[Size, int] = {"small": 30, "full": 60}
    planted = tuple(Bug(f"is {bug}", f"the number is {bug}", "near", bug) for bug in bugs)
    kind = Kind("number", honest, planted)
    entries = (
        Entry("near", "near the seed's number", kind, near, seeds, statistical=statistical),
        Entry("one", "at most one", kind, at_most_one, {"small": 5, "full": 5}),
    )
    return Suite((*entries, *(replace(entry, kind=kind) for entry in more)))


three = partial(toy, 3.0, 13.0, -3.0)
broken = partial(toy, 3.0, honest=0.7)


def test_a_suite_that_holds_passes_and_counts() -> None:
    outcome = run(three, "small")
    assert outcome.failures == []
    near, one = outcome.rows
    assert (near.done, near.comparisons, one.done) == (30, 30, 5)
    # 30 seeds draw 15 problems twice, of two tasks each
    assert len(outcome.problems) == 30
    found = {(cell.claim, cell.bug): cell.caught for cell in outcome.cells}
    assert found["near", "is -3.0"]
    assert not found["one", "is -3.0"]
    assert found["one", "is 13.0"]  # raising does not hold


def test_a_claim_that_fails_is_named_with_its_seeds() -> None:
    outcome = run(broken, "small")
    (words,) = outcome.failures
    (row, _) = outcome.rows
    assert words.startswith(f"claim near fails for {len(row.failures)} of 30 seeds; seed ")
    assert row.failures == sorted(row.failures)
    assert row.worst is not None
    assert row.worst_seed in row.failures
    assert row.worst.ratio == row.ratio == max(row.ratios.values())


def test_a_surviving_bug_fails_the_run() -> None:
    words = (
        "planted bug is 0.1 of number (the number is 0.1) is not noticed by claim near, which must"
    )
    assert run(partial(toy, 3.0, 0.1), "small").failures == [words]
    assert run(partial(toy, 3.0, 0.1), "small", claims=("near",)).failures == [words]
    # the claim that must is left out
    assert run(partial(toy, 3.0, 0.1), "small", claims=("one",)).failures == []


def test_a_bug_that_another_claim_must_notice_or_can_not_is_held_to_that() -> None:
    def expecting(shown: tuple[str, ...] | None = None, blind: tuple[str, ...] = ()) -> Suite:
        near, one = toy(3.0, -3.0).entries
        return Suite((near, replace(one, shown=shown, blind=blind)))

    assert run(partial(expecting, blind=("is -3.0",)), "small").failures == []
    assert run(partial(expecting, shown=("is -3.0",)), "full").failures == [
        "planted bug is -3.0 of number (the number is -3.0) is not noticed by claim one, which must"
    ]
    (words,) = run(partial(expecting, blind=("is 3.0",)), "small").failures
    assert words.endswith("is noticed by claim one, listed as blind to it")


def test_a_bug_that_no_claim_is_shown_fails_the_run() -> None:
    def shy() -> Suite:
        _, one = toy(3.0, 4.0).entries
        return Suite((replace(one, shown=("is 3.0",)),))

    assert run(shy, "small").failures == [
        "planted bug is 4.0 of number (the number is 4.0) is shown to no claim"
    ]
    assert run(shy, "full").failures == []


def test_a_claim_that_notices_nothing_fails_the_run() -> None:
    more = Entry(
        "any", "anything goes", Kind("number", 0.0, ()), anything_goes, {"small": 1, "full": 1}
    )
    outcome = run(partial(toy, 3.0, more=(more,)), "small")
    assert outcome.failures == ["claim any notices no planted bug"]
    assert run(partial(toy, more=(more,)), "small", bug_seeds=0).failures == []


def test_a_bug_that_cannot_be_planted_is_not_a_bug_noticed() -> None:
    stale = InSource((SourceBug("hypergrad.linear.cg", "no such text", ""),), lambda: 1.0)
    kind = Kind("planting", lambda: 1.0, (Bug("stale", "not there", "planting", stale),))
    seeds: dict[Size, int] = {"small": 1, "full": 1}
    entry = Entry("planting", "returns one", kind, planting, seeds)
    outcome = run(lambda: Suite((entry,)), "small")
    assert "bug stale of planting is not planted: hypergrad.linear.cg contains" in str(
        outcome.failures[0]
    )
    assert not outcome.cells[0].caught or outcome.cells[0].reason


def test_processes_change_nothing() -> None:
    alone, shared = run(three, "small"), run(three, "small", workers=2)
    assert alone.failures == shared.failures
    assert alone.problems == shared.problems
    assert alone.cells == shared.cells
    for one, other in zip(alone.rows, shared.rows, strict=True):
        assert (one.ratios, one.worst, one.worst_seed) == (
            other.ratios,
            other.worst,
            other.worst_seed,
        )


def test_the_false_alarms_are_shared_out() -> None:
    made = partial(toy, 3.0, statistical=True)
    assert run(made, "small").allowance == ALARMS / 30
    assert made().allowance("full") == ALARMS / 60
    # a claim by itself takes no more than its share of the whole
    assert run(made, "small", claims=("one",)).allowance == ALARMS / 30


def test_an_unknown_claim_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no claim is called \['D9'\]; there are \['near'"):
        run(three, "small", claims=("D9",))


def test_the_registry_is_sound() -> None:
    whole = suite()
    names = [entry.name for entry in whole.entries]
    assert len(set(names)) == len(names)
    assert not any("," in name for name in names)  # --claims divides by commas
    for entry in whole.entries:
        bugs = [bug.name for bug in entry.kind.bugs]
        assert len(set(bugs)) == len(bugs) > 0
        assert entry.statement
        assert 0 < entry.seeds["small"] <= entry.seeds["full"]
        assert entry.shown is None or set(entry.shown) <= set(bugs)
        assert set(entry.blind) <= set(bugs) - set(entry.shown or ())
        assert not any(
            bug.claim == entry.name and bug.name in entry.blind for bug in entry.kind.bugs
        )
    assert ALGORITHM in whole.kinds
    for kind in whole.kinds:
        claims = {entry.name for entry in whole.entries if entry.kind is kind}
        assert {bug.claim for bug in kind.bugs} <= claims, kind.name
    assert math.isclose(
        whole.allowance("full") * sum(e.seeds["full"] for e in whole.entries if e.statistical),
        ALARMS,
    )


def test_equal_problems_are_counted_once() -> None:
    with instances.gathered_tasks() as seen:
        for _ in range(2):
            drawn = instances.quad(seed=1, batch=(3,), p=2, q=2, condition=2.0)
        instances.quad(seed=2, batch=(3,), p=2, q=2, condition=2.0)
    assert len(seen) == 6
    before = len(seen)
    instances.note(drawn.family, drawn.theta)  # outside: counted nowhere
    assert len(seen) == before
    assert torch.is_tensor(drawn.tensors()[0])


def test_conditions_are_counted_as_tasks() -> None:
    with instances.gathered_tasks() as seen:
        drawn = kinked.kinked(1, "box")
        assert len(seen) == len(drawn.tasks) > 1
        # made from a draw that nobody sees
        assert len(kinked.degenerate(3, "lasso").tasks) + len(drawn.tasks) == len(seen)
