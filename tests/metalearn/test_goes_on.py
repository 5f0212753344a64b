"""A command given again finds its run again, and what is counted beforehand changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from metalearn.cli.compare import ensure
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.distributed import World
from metalearn.errors import ConfigError
from metalearn.runs.folder import Run
from metalearn.training import budget as plan
from metalearn.training.state import Training
from metalearn.training.step import upper_step

CPU = torch.device("cpu")
ASKED = TrainConfig().replace(
    memory_budget="1GiB",
    steps=2,
    validate_every=2,
    validation_episodes=2,
    test_episodes=2,
    filters=4,
    tasks_per_step=2,
    train=EpisodeShape(way=5, shot=1, query=1),
    threads=1,
    tracker="none",
)


def test_recorded_settings_answer_to_what_they_came_from() -> None:
    came_to = ASKED.replace(
        memory_budget=None, tasks_per_chunk=2, device="cpu", normalisation="stored"
    )
    assert came_to.answers(ASKED)
    assert not came_to.answers(ASKED.replace(normalisation="group"))
    assert not came_to.answers(ASKED.replace(steps=3))
    assert not came_to.answers(ASKED.replace(device="cuda"))
    other = ASKED.replace(memory_budget=None, tasks_per_chunk=1)
    assert not came_to.answers(other)


def test_a_run_with_a_budget_is_left_as_it_is_the_second_time(tmp_path: Path) -> None:
    asked = ASKED.replace(run=tmp_path / "run")
    ensure(asked, console=Console(quiet=True))
    run = Run(tmp_path / "run")
    assert run.finished
    before = (run.folder / "result.json").read_bytes()
    ensure(asked, console=Console(quiet=True))
    assert (run.folder / "result.json").read_bytes() == before


def test_counting_bytes_draws_nothing_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:

    def dropping(*arguments: Any, **settings: Any) -> torch.Tensor:
        torch.rand(3)  # as a backbone that drops activations does
        return upper_step(*arguments, **settings)

    monkeypatch.setattr(plan, "upper_step", dropping)
    training = Training(ASKED.replace(memory_budget=None), CPU)
    before = torch.get_rng_state()
    assert plan.predicted_bytes(training) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_budget_is_chunks_to_running_averages_of_several_ranks() -> None:
    config = ASKED.replace(normalisation="stored")
    with pytest.raises(ConfigError, match="memory_budget, was given to several ranks"):
        Training(config, CPU, World(rank=0, size=2))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_each_step_of_a_rank_gets_its_own_episodes(rank: int, chunk: int | None) -> None:
    config = ASKED.replace(memory_budget=None, tasks_per_step=5, tasks_per_chunk=chunk, steps=4)
    config = config.replace(normalisation="transductive")  # chunks of several ranks need it
    training = Training(config, CPU, World(rank=rank, size=2))
    training.step = 1
    for step in (1, 2, 3):
        chunks = list(training._chunks())
        own = training.own
        assert (own.start, own.stop) == (5 * step + 2 * rank, 5 * step + 2 + 3 * rank)
        size = chunk or 5
        sizes = [min(size, len(own) - first) for first in range(0, len(own), size)]
        assert [part.tasks for part in chunks] == sizes
        expected = training.sampler.sample(own.start, len(own))
        assert torch.equal(torch.cat([chunk.images for chunk in chunks]), expected.images)
        training.step += 1
