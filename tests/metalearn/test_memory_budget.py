"""A memory budget is kept: the plan predicts what a step takes, and the chunks fit."""

import io
import re
from typing import Any

import pytest
import torch
from rich.console import Console

from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError
from metalearn.memory import LiveBytes
from metalearn.training import budget as plan
from metalearn.training.budget import Fit, predicted_bytes, within_budget
from metalearn.training.state import Training


def test_the_plan_predicts_the_memory_of_a_step() -> None:
    config = TrainConfig().replace(
        method="memory-reduced",
        lower_steps=2,
        adjoint_steps=2,
        filters=4,
        tasks_per_step=2,
        steps=3,
        device="cpu",
    )
    training = Training(config, torch.device("cpu"))
    before = {k: v.clone() for k, v in training.model.state_dict().items()}
    predicted = predicted_bytes(training)
    # It changes nothing ...
    after = training.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (training.step, training.certificates.seen) == (0, 0)
    # ... and is what a first step takes.
    weights = list(training.model.parameters())
    pools = [training.sampler.pool.images, training.validation.pool.images]
    with LiveBytes([*weights, *pools]) as live:
        training.advance()
    # The heads' solves hold a few vectors of a head (here 2 x 20 x 17 floats) more or fewer.
    assert abs(live.peak - predicted) <= 10 * 2 * 20 * 17 * 4
    images = 2 * 20 * 3 * 28 * 28 * 4
    assert predicted > sum(pool.numel() for pool in pools) + images


BUDGETED: list[dict[str, Any]] = [
    {"method": "memory-reduced", "lower_steps": 2, "adjoint_steps": 2},
    {"method": "memory-reduced", "lower_steps": 2, "adjoint_steps": 2, "streamed": True},
    {"method": "r2d2", "normalisation": "stored"},
]


def test_a_budget_is_kept_where_another_moment_takes_the_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As drawing many tasks does, of which one task and two tell nothing."""

    def peak(training: Training, tasks: int) -> int:
        counted.append(tasks)
        return max(100 + 10 * tasks, 40 + 25 * tasks)

    counted: list[int] = []
    monkeypatch.setattr(plan, "_peak", peak)
    asked = TrainConfig().replace(tasks_per_step=16, memory_budget="220B", device="cpu")
    said = io.StringIO()
    found = within_budget(Training(asked, torch.device("cpu")), console=Console(file=said))
    # 12 would fit the line through 110 and 120 bytes: two chunks of 8, which take 240; on the line
    # through 110 and 240 it is 6
    assert counted == [1, 2, 8, 6]
    assert found.memory.tasks_per_chunk == 6
    assert "chunks of at most 6, predicted to take" in said.getvalue()


def test_a_task_that_is_counted_to_more_than_the_budget_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter([100, 210, 150])  # one, two, and one again, as an allocator may have it

    def peak(training: Training, tasks: int) -> int:
        return next(counts)

    monkeypatch.setattr(plan, "_peak", peak)
    asked = TrainConfig().replace(tasks_per_step=16, memory_budget="120B", device="cpu")
    with pytest.raises(ConfigError, match="a step was counted to take .* one task at a time"):
        within_budget(Training(asked, torch.device("cpu")), console=Console(quiet=True))


@pytest.mark.parametrize("change", BUDGETED, ids=str)
def test_a_memory_budget_is_kept_and_predicted(change: dict[str, Any]) -> None:
    def settings(**more: Any) -> TrainConfig:
        asked = EpisodeShape(way=3, shot=1, query=1)
        return TrainConfig().replace(
            filters=8, tasks_per_step=10, train=asked, steps=3, device="cpu", **change, **more
        )

    free = Training(settings(), torch.device("cpu"))
    fit = Fit.of(free)
    budget = fit.bytes(6)
    training = Training(settings(memory_budget=f"{budget}B"), torch.device("cpu"))
    said = io.StringIO()
    training.config = within_budget(training, console=Console(file=said))
    printed = re.search(r"chunks of at most (\d+), predicted to take ([\d.]+) MiB", said.getvalue())
    assert printed is not None
    # at most 6 at a time are two chunks, which are then of 5
    assert training.config.memory.budget is None
    assert training.config.memory.tasks_per_chunk == int(printed[1]) == 5
    training.advance()
    kept = [v for s in training.optimiser.state.values() for v in s.values()]
    weights = list(training.model.parameters())
    pools = [training.sampler.pool.images, training.validation.pool.images]
    with LiveBytes([*weights, *kept, *pools]) as live:
        training.advance()
    assert live.peak <= budget
    for predicted in (float(printed[2]) * 2**20, fit.bytes(5)):
        assert abs(predicted - live.peak) <= 0.1 * live.peak
    if not training.config.memory.streamed:  # half a task more or less would be seen
        assert fit.per_task > 0.1 * live.peak / 2
    with pytest.raises(ConfigError, match=r"MiB with one task at a time: give more"):
        fit.tasks(fit.bytes(1) - 1, 10)
    assert [fit.tasks(fit.bytes(n), 10) for n in (1, 3, 4, 7, 10, 50)] == [1, 3, 4, 5, 10, 10]
