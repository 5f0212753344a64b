"""Learning rates of parts: each moves by its own factor, and what is frozen stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn.cli import main
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError
from metalearn.runs.folder import Run
from metalearn.training.state import Training
from tests.metalearn.commands import SMALL

CPU = torch.device("cpu")
SETTINGS = TrainConfig().replace(
    method="anil",
    optimiser="sgd",
    learning_rate=0.1,
    tasks_per_step=2,
    filters=4,
    threads=1,
    train=EpisodeShape(way=5, shot=1, query=2),
)


def moves(**changes: Any) -> dict[str, torch.Tensor]:
    """How far each parameter moves in one step."""
    training = Training(SETTINGS.replace(**changes), CPU)
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    training.advance()
    return {name: p.detach() - before[name] for name, p in training.model.named_parameters()}


def test_each_part_moves_by_its_factor() -> None:
    plain = moves()
    rates = ("backbone=0.5", "backbone.convs.1=0.25", "backbone.norms.0.bias=0", "own.head=2")
    found = moves(layer_rates=rates)
    for name, moved in found.items():
        factor = 0.5 if name.startswith("backbone") else 2
        factor = 0.25 if name == "backbone.convs.1.weight" else factor
        factor = 0.0 if name == "backbone.norms.0.bias" else factor
        # differences of weights of size 1 in float32, each rounded once
        assert torch.allclose(moved, factor * plain[name], rtol=0, atol=2.0**-22), name
        assert bool(plain[name].abs().max() > 2.0**-16)


def test_frozen_parts_are_neither_differentiated_nor_adapted(tmp_path: Path) -> None:
    training = Training(SETTINGS.replace(layer_rates=("backbone=0",)), CPU)
    training.advance()
    assert {name for name, p in training.model.named_parameters() if p.grad is not None} == {
        "own.head"
    }
    maml = moves(method="maml", lower_steps=1, layer_rates=("backbone.convs=0",))
    assert not any(bool(moved.any()) for name, moved in maml.items() if "convs" in name)
    assert bool(maml["backbone.norms.0.bias"].any())
    with pytest.raises(ConfigError, match="is frozen, and method protonet learns nothing"):
        Training(SETTINGS.replace(method="protonet", layer_rates=("backbone=0",)), CPU)


def test_a_run_with_rates_resumes_and_names_them(tmp_path: Path) -> None:
    rates = ["--layer-rates", "backbone.convs.0=0", "backbone.convs.1=0.1"]
    main(["train", f"--run={tmp_path / 'run'}", *SMALL, "--checkpoint-every=2", *rates])
    run = Run(tmp_path / "run")
    found = run.result()
    assert "layer_rates = backbone.convs.0=0, backbone.convs.1=0.1" in found.departures
    (run.folder / "result.json").unlink()
    main(["train", f"--resume={run.folder}"])
    assert run.result().per_episode == found.per_episode
    main(["test", str(run.folder)])


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (("backbone",), "given 'backbone': give NAME=FACTOR"),
        (("=1",), "given '=1'"),
        (("backbone=-1",), "given 'backbone=-1': .* finite factor of at least 0"),
        (("backbone=nan",), "given 'backbone=nan'"),
        (("own=1", "own=2"), "name each part once"),
        (("backbone.conv=1",), "no parameter is called so .* there are backbone.convs.0.weight"),
    ],
)
def test_rates_that_cannot_be_given(rates: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Training(SETTINGS.replace(layer_rates=rates), CPU)
