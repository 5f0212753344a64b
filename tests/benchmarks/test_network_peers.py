"""The network beside Betty and TorchOpt: our ways run, and what differs is the derivative alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.digits import ADJOINTS
from benchmarks.digits import run as alone
from benchmarks.network_peers import apart, bytes_of, measured, rows, score
from benchmarks.network_ways import Task, looped, ways

OURS = {way.how: way for way in ways() if way.package in ("", "hypergrad")}
TASK = Task.drawn(0, 2)


@pytest.mark.filterwarnings("ignore")
def test_the_run_is_that_of_the_digits() -> None:
    # same data, batches, starts and steps; the sum over all examples is rounded otherwise
    name = "Neumann(step_size=0.1, max_steps=1)"
    accuracy, auc = score(TASK, *OURS[name].run(TASK))
    there = alone(ADJOINTS[name], 0, steps=2)
    assert (accuracy, auc) == pytest.approx((there.accuracy, there.auc), abs=2e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["no weights", *(how for how in OURS if "Subsampled" in how)])
def test_our_ways_weight_examples(how: str) -> None:
    theta, _ = OURS[how].run(TASK)
    assert bool(theta.any()) is (how != "no weights")


def test_memory_is_that_of_a_run() -> None:
    one, weights = OURS["no weights"], OURS["Unrolled(), 10 gradient steps"]
    assert bytes_of(weights) > 10 * bytes_of(one)  # ten graphs of all examples, and one of a batch


@pytest.mark.parametrize("way", ["updates.AdamW, all 16 steps", "updates.AdamW, the last 4 steps"])
def test_unrolled_steps_are_those_of_training(way: str) -> None:
    alone = replace(TASK, steps=0, batches=TASK.batches[: TASK.between])
    _, plain = OURS["no weights"].run(alone)
    _, ours = OURS[way].run(alone)
    for name, leaf in plain.items():
        # the same operations in another order: a few roundings of float32 for each of 16 steps
        assert torch.allclose(ours[name], leaf, rtol=1e-4, atol=1e-5)


def test_a_step_taken_again_is_the_same_for_less_memory() -> None:
    whole = OURS["updates.AdamW, all 16 steps"]
    again = OURS["updates.AdamW, all 16 steps, each in a checkpoint"]
    (theta, _), (same, _) = whole.run(TASK), again.run(TASK)
    assert torch.equal(theta, same)
    assert bytes_of(again) < 0.5 * bytes_of(whole)


def test_accuracies_are_compared_seed_by_seed() -> None:
    one, other = {"accuracies": [0.9, 0.8, 0.7]}, {"accuracies": [0.89, 0.78, 0.67]}
    points, half = apart(one, other)
    # differences 1, 2 and 3: Student's t of two degrees, 4.303, over the root of three
    assert (points, half) == pytest.approx((2, 4.303 / 3**0.5), rel=1e-3)


def test_a_table_says_what_was_found() -> None:
    wrong = looped(lambda task, theta, phi: {k: v + 0 * theta.sum() for k, v in phi.items()})
    chosen = [OURS["no weights"], type(OURS["no weights"])(package="x", how="wrong", run=wrong)]
    found = measured(chosen, 2, 1)
    assert found[1]["aucs"] == [0.5, 0.5]  # a derivative of zero moves nothing
    assert torch.tensor([one["time"]["median"] for one in found]).gt(0).all()
    assert list(rows({"ways": found}))[1].startswith("| x | `wrong` |")
