"""The accuracy that a run prints as that of single pictures is theirs, for every preset."""

from __future__ import annotations

import io
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.console import Console
from torch import Tensor

from experiments.normalisation import ALONE, answered
from metalearn import TrainConfig, train
from metalearn.config.choices import MethodName, Normalisation
from metalearn.config.groups import EpisodeShape
from metalearn.methods.presets import PRESETS, shared_normalisation
from metalearn.runs.folder import Run
from metalearn.training.build import build_model, evaluation_sampler
from metalearn.training.state import Training

EPISODES = 12
SHAPE = EpisodeShape(way=3, shot=1, query=3)
TINY = TrainConfig().replace(
    steps=3,
    tasks_per_step=1,
    validate_every=3,
    validation_episodes=2,
    test_episodes=EPISODES,
    filters=8,
    train=SHAPE,
    test=SHAPE,
    threads=1,
    device="cpu",
    tracker="none",
)
METHODS: tuple[MethodName, ...] = get_args(MethodName)


def run_of(asked: TrainConfig) -> tuple[Run, str]:
    """A run, and what it printed."""
    console = Console(file=io.StringIO(), width=400)
    train(asked, console=console)
    assert asked.run.folder is not None
    assert isinstance(console.file, io.StringIO)
    return Run(asked.run.folder), console.file.getvalue()


def one_by_one(run: Run) -> Tensor:
    """Accuracy of each test episode, whose queries are answered one at a time."""
    config = run.config()
    sampler = evaluation_sampler("test", config, device=torch.device("cpu"))
    model = build_model(config, sampler.pool, device=torch.device("cpu")).eval()
    model.load_state_dict(run.weights())
    batch = sampler.sample(0, EPISODES)
    (answers,) = answered(config.preset().method, model, batch, [ALONE]).values()
    return (answers == batch.query_labels).double().mean(-1)


@pytest.mark.parametrize("method", [m for m in METHODS if PRESETS[m].normalisation == "stored"])
def test_single_pictures_have_the_accuracy_that_is_printed(
    method: MethodName, tmp_path: Path
) -> None:
    run, said = run_of(TINY.replace(run=tmp_path, method=method))
    printed = run.result()
    assert "normalisation stored (accuracy of single pictures, too)" in said
    alone = one_by_one(run)
    assert abs(alone.mean().item() - printed.accuracy) <= printed.interval
    # and not by chance: each answer is the same, whatever comes with it
    assert alone.tolist() == printed.per_episode


def test_where_they_have_not_it_is_said(tmp_path: Path) -> None:
    run, said = run_of(TINY.replace(run=tmp_path, normalisation="transductive"))
    assert "transductive (accuracy of whole episodes, not of single pictures)" in said
    assert one_by_one(run).tolist() != run.result().per_episode


def test_training_by_stored_statistics_takes_the_transductive_steps() -> None:
    cpu = torch.device("cpu")
    kinds: tuple[Normalisation, ...] = ("stored", "transductive", "group")
    runs = {kind: Training(TINY.replace(normalisation=kind), cpu) for kind in kinds}
    for run in runs.values():
        for _ in range(TINY.optimisation.steps):
            run.advance()
    stored, batch, group = (dict(run.model.named_parameters()) for run in runs.values())
    assert all(torch.equal(stored[name], batch[name]) for name in batch)
    assert not all(torch.equal(group[name], batch[name]) for name in batch)


def test_the_usual_normalisation_is_the_method_s_and_recorded_as_such(tmp_path: Path) -> None:
    changing = {"maml", "imaml", "fomaml", "reptile"}  # the statistics, at each lower step
    for method in METHODS:
        found = TrainConfig().replace(method=method).preset().normalisation
        adapts = method.partition("-")[0] in changing
        assert found == ("transductive" if adapts else "stored"), method
    asked = TINY.replace(run=tmp_path, steps=0)
    run, _ = run_of(asked)
    assert run.config().backbone.normalisation == "stored"
    assert run.card().normalisation == "stored"
    assert run.config().answers(asked)
    assert not run.config().answers(asked.replace(normalisation="group"))


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("memory-reduced", "protonet"), "stored"),
        (("maml", "reptile"), "transductive"),
        (("memory-reduced", "maml"), "transductive"),
    ],
)
def test_methods_that_are_compared_share_one(
    methods: tuple[MethodName, ...], expected: Normalisation
) -> None:
    assert shared_normalisation(methods) == expected
