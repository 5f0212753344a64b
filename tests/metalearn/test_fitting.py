"""A checkpoint from elsewhere is either that of the run, or refused before anything is used."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.config.train import TrainConfig
from metalearn.errors import RunError
from metalearn.training.checkpoint import Progress, RunKey
from metalearn.training.state import Training

CONFIG = TrainConfig().replace(
    steps=4, filters=4, tasks_per_step=1, validation_episodes=2, schedule="cosine", threads=1
)
KEY = RunKey(config="c", configured="m", backbone="b", data="d")


@pytest.fixture(scope="module")
def state() -> tuple[dict[str, Tensor], Progress]:
    training = Training(CONFIG, torch.device("cpu"))
    training.advance()
    training.validate()
    training.advance()
    tensors, progress = training.state(key=KEY, origin={}, metrics=1, seconds=0.0)
    return {name: tensor.clone() for name, tensor in tensors.items()}, progress


def restored(tensors: dict[str, Tensor], progress: Progress) -> None:
    Training(CONFIG, torch.device("cpu")).restore(tensors, progress)


def test_its_own_state_fits(state: tuple[dict[str, Tensor], Progress]) -> None:
    restored(*state)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("optimiser.0.exp_avg", torch.zeros(1), "optimiser.0.exp_avg has shape"),
        ("optimiser.0.exp_avg", torch.zeros(()), "optimiser.0.exp_avg has shape"),
        ("optimiser.0.another", torch.zeros(()), "optimiser.0.another has shape"),
        ("optimiser.99.exp_avg", torch.zeros(1), "optimiser.99.exp_avg has shape"),
        ("optimiser.-1.exp_avg", torch.zeros(1), "optimiser.-1.exp_avg has shape"),
        ("optimiser.x.exp_avg", torch.zeros(1), "optimiser.x.exp_avg has shape"),
        ("losses", torch.zeros(1), "losses has shape"),
        ("certificates.residual", torch.zeros(1), "certificates.residual has shape"),
        ("best.backbone.convs.0.weight", torch.zeros(1), "best.backbone.convs.0.weight has shape"),
        ("model.backbone.convs.0.weight", torch.zeros(1), "convs.0.weight has shape"),
        ("another", torch.zeros(1), "another has shape"),
    ],
)
def test_tensors_of_another_shape_are_refused(
    name: str, tensor: Tensor, message: str, state: tuple[dict[str, Tensor], Progress]
) -> None:
    with pytest.raises(RunError, match=message):
        restored(state[0] | {name: tensor}, state[1])


@pytest.mark.parametrize("missing", ["losses", "optimiser.0.exp_avg", "optimiser.1.step"])
def test_missing_tensors_are_refused(
    missing: str, state: tuple[dict[str, Tensor], Progress]
) -> None:
    tensors = {name: value for name, value in state[0].items() if name != missing}
    with pytest.raises(RunError, match=rf"\['{missing}'\] are missing"):
        restored(tensors, state[1])


def _without_optimiser(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith("optimiser.")}


def test_an_optimiser_that_has_moved_without_its_tensors_is_refused(
    state: tuple[dict[str, Tensor], Progress],
) -> None:
    """It would start again from nothing, unsaid."""
    with pytest.raises(RunError, match=r"'optimiser.0.exp_avg', .* are missing"):
        restored(_without_optimiser(state[0]), state[1])


def test_an_optimiser_that_has_not_moved_has_none() -> None:
    untouched = Training(CONFIG, torch.device("cpu"))
    restored(*untouched.state(key=KEY, origin={}, metrics=0, seconds=0.0))
    plain = CONFIG.replace(method="reptile", train=CONFIG.test)
    training = Training(plain, torch.device("cpu"))  # by SGD, which keeps nothing
    training.advance()
    kept = training.state(key=KEY, origin={}, metrics=0, seconds=0.0)
    Training(plain, torch.device("cpu")).restore(*kept)


# torch's schedules don't know of steps that a scaler leaves out
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_scaler_may_have_skipped_every_step_so_far() -> None:
    half = CONFIG.replace(precision="float16")
    training = Training(half, torch.device("cpu"))
    weight = next(training.model.parameters())
    hook = weight.register_hook(lambda grad: grad * torch.inf)
    training.advance()
    tensors, progress = training.state(key=KEY, origin={}, metrics=0, seconds=0.0)
    assert _without_optimiser(tensors) == tensors
    Training(half, torch.device("cpu")).restore(tensors, progress)
    hook.remove()
    training.advance()
    tensors, progress = training.state(key=KEY, origin={}, metrics=0, seconds=0.0)
    Training(half, torch.device("cpu")).restore(tensors, progress)
    with pytest.raises(RunError, match=r"'optimiser.0.exp_avg', .* are missing"):
        Training(half, torch.device("cpu")).restore(_without_optimiser(tensors), progress)


def _group(progress: Progress, **values: Any) -> dict[str, Any]:
    return {"optimiser": [progress.optimiser[0] | values]}


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"step": -1},
        lambda p: {"step": 5},
        lambda p: {"seen": 10**9},
        lambda p: {"stale": -3},
        lambda p: {"optimiser": []},
        lambda p: _group(p, lr="high"),
        lambda p: _group(p, params=[0]),
        lambda p: _group(p, another=1),
        lambda p: {"schedule": p.schedule | {"optimizer": "none"}},
        lambda p: {"schedule": p.schedule | {"T_max": "x"}},
        lambda p: {"scaler": {"scale": 1.0}},
    ],
)
def test_plain_values_of_another_kind_are_refused(
    change: Any, state: tuple[dict[str, Tensor], Progress]
) -> None:
    with pytest.raises(RunError, match="does not fit the run's settings"):
        restored(state[0], dataclasses.replace(state[1], **change(state[1])))
