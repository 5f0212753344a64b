"""The network beside Betty and TorchOpt: our ways run, and what differs is the derivative alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.digits import ADJOINTS
from benchmarks.digits import run as alone
from benchmarks.network_peers import bytes_of, measured, rows, score
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
@pytest.mark.parametrize("how", [how for how in OURS if "Subsampled" in how or "(" not in how])
def test_our_ways_weight_examples(how: str) -> None:
    theta, _ = OURS[how].run(TASK)
    assert bool(theta.any()) is ("(" in how)


def test_memory_is_that_of_a_run() -> None:
    one, weights = OURS["no weights"], OURS["Unrolled(), 10 gradient steps"]
    assert bytes_of(weights) > 10 * bytes_of(one)  # ten graphs of all examples, and one of a batch


def test_a_table_says_what_was_found() -> None:
    wrong = looped(lambda task, theta, phi: {k: v + 0 * theta.sum() for k, v in phi.items()})
    chosen = [OURS["no weights"], type(OURS["no weights"])(package="x", how="wrong", run=wrong)]
    found = measured(chosen, 1, 1)
    assert found[1]["aucs"] == [0.5]  # a derivative of zero moves nothing
    assert torch.tensor([one["time"]["median"] for one in found]).gt(0).all()
    assert list(rows({"ways": found}))[1].startswith("| x | `wrong` |")
