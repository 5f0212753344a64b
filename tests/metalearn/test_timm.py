"""Models of timm, and weights from files: trained, resumed, tested, used, and recorded as such."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from metalearn import TrainConfig, load, train
from metalearn.backbones import PerTask
from metalearn.backbones.source import imported, made
from metalearn.backbones.timm_models import Standardised
from metalearn.cli import main
from metalearn.config.groups import EpisodeShape
from metalearn.config.yaml import settings
from metalearn.errors import ConfigError, RunError
from metalearn.runs.folder import Run
from tests.metalearn import own_backbones as own
from tests.metalearn.commands import SMALL, refused
from tests.metalearn.methods.subjects import SIDE, close, model
from tests.metalearn.test_own_backbones import QUIET, RESNET, TINY, forget_the_end, trained
from tests.metalearn.test_per_task import HEADS, step

NAME = "timm:test_resnet"  # timm's own model for tests: 0.5 million weights


def weights_of(net: nn.Module, file: Path, **more: torch.Tensor) -> str:
    """Save the weights moved away from any that a seed gives; returns how they are recorded."""
    torch.manual_seed(7)
    moved = {
        k: v + 0.1 * torch.rand_like(v) if v.is_floating_point() else v
        for k, v in net.state_dict().items()
    }
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(moved | more, file)
    else:
        torch.save({"state_dict": moved | more}, file)
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_run_starts_from_a_file_and_names_it_by_its_hash(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"own.{ending}"
    digest = weights_of(own.resnet(), file, surplus=torch.ones(3))
    run = trained(tmp_path / "run", own.resnet, pretrained=str(file), normalisation="stored")
    assert run.config().backbone.pretrained == digest
    assert run.result().backbone.startswith(f"{RESNET}, pretrained {digest[:19]}, structure ")
    start = trained(tmp_path / "start", own.resnet, pretrained=str(file), steps=0)
    begun: dict[str, torch.Tensor] = (
        safetensors.torch.load_file(file)
        if ending == "safetensors"
        else torch.load(file)["state_dict"]
    )
    for name, value in start.weights().items():
        assert torch.equal(value, begun[name.removeprefix("backbone.net.")]), name
    # the same weights under another path are the same run, others are not
    file.rename(tmp_path / f"moved.{ending}")
    asked = TINY.replace(backbone=RESNET, normalisation="stored", run=run.folder)
    assert run.config().answers(asked.replace(pretrained=str(tmp_path / f"moved.{ending}")))
    assert not run.config().answers(asked)
    # the run has all it needs: the file is not asked for again
    found = run.result()
    forget_the_end(run)
    train(TrainConfig().replace(resume=run.folder, backbone=RESNET), console=QUIET)
    assert run.result().per_episode == found.per_episode
    main(["test", str(run.folder), f"--backbone={RESNET}"])
    forget_the_end(run)
    run.checkpoint.unlink()
    with pytest.raises(RunError, match="no checkpoint, .* start a new run with --pretrained"):
        train(TrainConfig().replace(resume=run.folder, backbone=RESNET), console=QUIET)


def test_a_frozen_one_learns_nothing_and_goes_by_its_own_statistics(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    weights_of(own.resnet(), file)
    run = trained(tmp_path / "run", own.resnet, pretrained=str(file), frozen=True, method="r2d2")
    before, after = safetensors.torch.load_file(file), run.weights()
    assert all(torch.equal(after[f"backbone.net.{k}"], v) for k, v in before.items())
    found = run.result()
    assert found.parameters == 2  # r2d2's own
    assert ", frozen, structure" in found.backbone
    assert found.normalisation == "stored statistics as given"
    pictures = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    learner = load(run.folder, backbone=RESNET).fit(pictures, [0, 1, 0, 1])
    alone = np.concatenate([learner.predict_proba(picture) for picture in pictures])
    np.testing.assert_allclose(learner.predict_proba(pictures), alone, rtol=0, atol=1e-4)


def test_fine_tuning_is_a_method_without_steps(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    weights_of(own.resnet(), file)
    given = {"pretrained": str(file), "steps": 0, "train": EpisodeShape(way=5, shot=1, query=2)}
    run = trained(tmp_path / "run", own.resnet, **given, method="maml", test_lower_steps=3)
    found = run.result()
    assert (found.best_step, found.test_K) == (0, 3)
    assert ", pretrained sha256:" in found.backbone
    before, after = safetensors.torch.load_file(file), run.weights()
    assert all(torch.equal(after[f"backbone.net.{k}"], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        (b"<html>", "is no file of weights"),
        ({"0.conv.weight": torch.zeros(4, 1, 3, 3)}, "1[0-9] of .* 16 weights are missing"),
        ({"0.conv.weight": torch.zeros(4, 3, 3, 3)}, r"of shape \(4, 3, 3, 3\), .* \(4, 1, 3, 3\)"),
        ({"0.conv.weight": torch.zeros(4, 1, 3, 3) + 1j}, "0.conv.weight in torch.complex64"),
        ({"0.conv.weight": torch.zeros(4, 1, 3, 3, dtype=torch.int8)}, "floating-point numbers"),
        (
            {"0.conv.weight": torch.full((4, 1, 3, 3), math.nan)},
            "has 0.conv.weight with NaN or inf",
        ),
        ([1, 2], "holds list, where a state dict was expected"),
    ],
)
def test_a_file_that_is_not_the_backbone_s_is_refused(
    content: Any, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, dict):
        usual = {} if "missing" in said else own.resnet().state_dict()
        torch.save(usual | content, file)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(ConfigError, match=said):
        trained(tmp_path / "run", own.resnet, pretrained=str(file))
    assert not (tmp_path / "run").exists()


def test_what_is_built_in_takes_no_weights_and_is_frozen_by_its_rate(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    weights_of(own.resnet(), file)
    for given in ({"pretrained": str(file)}, {"frozen": True}):
        with pytest.raises(ConfigError, match="conv4, which is built in: .*--layer-rates"):
            trained(tmp_path / "run", **given)


def test_without_timm_its_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = refused(["train", "--dry-run", f"--backbone={NAME}", *SMALL], capsys)
    assert "pip install '.[timm]'" in said


def test_images_are_standardised_as_the_weights_ask() -> None:
    images = torch.rand(2, 3, 4, 4)
    net = Standardised(nn.Flatten(), (0.5, 0.4, 0.3), (0.2, 0.1, 0.5))
    expected = (images - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor(
        [0.2, 0.1, 0.5]
    )[:, None, None]
    assert torch.equal(net(images), expected.flatten(1))


def named(folder: Path, **changes: Any) -> Run:
    train(TINY.replace(run=folder, backbone=NAME, **changes), console=QUIET)
    return Run(folder)


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="timm is an optional extra: .[timm]")


def test_a_timm_model_is_trained_resumed_tested_and_used(timm: Any, tmp_path: Path) -> None:
    run = named(tmp_path / "run", normalisation="stored")
    found = run.result()
    assert found.backbone.startswith(f"{NAME}, structure ")
    plain = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    assert found.parameters == sum(p.numel() for p in plain.parameters())
    forget_the_end(run)
    main(["train", f"--resume={run.folder}"])  # it is in no folder's power which code that is
    assert run.result().per_episode == found.per_episode
    main(["test", str(run.folder)])
    pictures = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    learner = load(run.folder).fit(pictures, list("abcabc"))
    alone = np.concatenate([learner.predict_proba(picture) for picture in pictures])
    np.testing.assert_allclose(learner.predict_proba(pictures), alone, rtol=0, atol=1e-4)
    learner.save(tmp_path / "saved")
    assert np.array_equal(load(tmp_path / "saved").predict(pictures), learner.predict(pictures))


def test_a_timm_model_starts_from_its_weights_file(timm: Any, tmp_path: Path) -> None:
    file = tmp_path / "timm.safetensors"  # as it is published: with its classifier
    weights_of(timm.create_model("test_resnet", in_chans=1), file)
    run = named(tmp_path / "run", pretrained=str(file), frozen=True, steps=0, method="protonet")
    begun = safetensors.torch.load_file(file)
    assert torch.equal(run.weights()["backbone.net.net.conv1.0.weight"], begun["conv1.0.weight"])
    assert run.result().parameters == 0
    mean = timm.get_pretrained_cfg("test_resnet").mean
    assert run.weights()["backbone.net.mean"].item() == pytest.approx(sum(mean) / 3)


@pytest.mark.parametrize("normalisation", ["transductive", "stored"])
def test_chunks_of_a_timm_model_give_the_gradient_of_the_whole(
    timm: Any, normalisation: Any
) -> None:
    source = imported(NAME)
    assert source is not None
    net = made(source, name=NAME, channels=1, size=SIDE, seed=0)
    one = model(HEADS, PerTask(net, channels=1, size=SIDE, normalisation=normalisation))
    whole = step(HEADS, one, 3)
    assert bool(whole.any())
    for size in (1, 2):  # each task passes by itself, whatever its chunk: only sums differ
        assert close(step(HEADS, one, size), whole, condition=2**2)


def test_a_name_that_timm_has_not_is_refused(
    timm: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refused(["train", "--dry-run", "--backbone=timm:resnet5000", *SMALL], capsys)
    assert "is no model of timm" in said
    assert "resnet" in said.partition("which has")[2]
    file = tmp_path / "settings.yaml"
    file.write_text(f"backbone: {NAME}\n")
    assert settings(file).backbone.name == NAME
