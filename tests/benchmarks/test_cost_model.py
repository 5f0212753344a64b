"""The formulas of the cost model against counts."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.cost_model import head_step, predicted_bytes, predicted_passes
from benchmarks.costs import cost
from benchmarks.fewshot import WAY, Setting, Step, backbone_pass, method
from tests.metalearn.measure import SavedBytes

SMALL = Setting(name="small", filters=8, side=16, tasks=2, shot=2, query=1)


def saved(step: Step) -> int:
    with SavedBytes() as kept:
        step()
    return kept.peak


@pytest.mark.parametrize("shot", [1, 3])
def test_a_recorded_head_step_to_the_byte(shot: int) -> None:
    setting = dataclasses.replace(SMALL, shot=shot)
    few, more = (saved(Step(method("itd-bio", steps), setting)) for steps in (3, 5))
    features = setting.backbone().features + 1
    assert (more - few) / 2 == setting.tasks * head_step(WAY * shot, features)


@pytest.mark.parametrize("side", [16, 32])
def test_what_a_backbone_keeps(side: int) -> None:
    setting = dataclasses.replace(SMALL, side=side)
    predicted = predicted_bytes("Algorithm 1, this library", dataclasses.asdict(setting), 1)
    # left out: means and variances of the normalisations (8 channels of 4 blocks, of 2 tasks and
    # 2 parts: 1 kB), weights (7 kB), and the heads
    assert saved(Step(method("protonet", 1), setting)) == pytest.approx(predicted, abs=20e3)


def test_streamed_steps_keep_the_pixels_and_pass_once_more() -> None:
    name, setting = "Algorithm 1, this library, streamed", dataclasses.asdict(SMALL)
    step = Step(method("protonet", 1), SMALL, tasks_per_chunk=1, streamed=True)
    predicted = predicted_bytes(name, setting, 1)
    whole = predicted_bytes("Algorithm 1, this library", setting, 1)
    assert predicted is not None
    assert whole is not None
    assert whole > 3 * predicted
    # left out: weights and heads, as above, and features of a task (15 images of 9 numbers)
    assert saved(step) == pytest.approx(predicted, abs=20e3)
    backbone, alone = backbone_pass(SMALL)
    limit = cost(alone, [*backbone.parameters(), SMALL.episodes().images])
    spent = cost(step, [*step.parameters(), step.episodes.images])
    found = (spent.forward + spent.backward) / (limit.forward + limit.backward)
    # the first convolution's images want no gradient: a third of its work less in one pass
    assert found == pytest.approx(predicted_passes(name, setting, 1), rel=0.15)


def test_passes_of_networks_that_adapt() -> None:
    setting = dataclasses.replace(SMALL, shot=1)
    backbone, alone = backbone_pass(setting)
    limit = cost(alone, [*backbone.parameters(), setting.episodes().images])
    step = Step(method("maml", 3), setting)
    spent = cost(step, [*step.parameters(), step.episodes.images])
    found = (spent.forward + spent.backward) / (limit.forward + limit.backward)
    predicted = predicted_passes("MAML, best effort", dataclasses.asdict(setting), 3)
    # the first convolution's images want no gradient: up to a third of its work
    assert found == pytest.approx(predicted, rel=0.15)
