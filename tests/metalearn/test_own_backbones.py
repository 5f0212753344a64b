"""Runs with backbones of one's own: trained, stopped, resumed, tested, and recorded honestly."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from metalearn import Learner, TrainConfig, load, train
from metalearn.backbones.source import imported, name_of
from metalearn.cli import main
from metalearn.config.yaml import settings
from metalearn.errors import ConfigError, LearnerError, RunError, Stopped
from metalearn.runs.folder import Run
from tests.metalearn import own_backbones as own
from tests.metalearn.commands import SMALL, refused

RESNET = "tests.metalearn.own_backbones:resnet"
QUIET = Console(quiet=True)
TINY = TrainConfig().replace(
    steps=2,
    validate_every=2,
    checkpoint_every=1,
    validation_episodes=2,
    test_episodes=2,
    tasks_per_step=2,
    threads=1,
    device="cpu",
    tracker="none",
)


def trained(folder: Path, backbone: Any = None, **changes: Any) -> Run:
    train(TINY.replace(run=folder, **changes), backbone=backbone, console=QUIET)
    return Run(folder)


def forget_the_end(run: Run) -> None:
    """As if the process had been killed after its last checkpoint."""
    (run.folder / "result.json").unlink()


def test_a_named_function_is_trained_resumed_and_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, named = tmp_path / "run", f"--backbone={RESNET}"
    main(["train", f"--run={folder}", named, *SMALL])
    run = Run(folder)
    found = run.result()
    assert re.fullmatch(rf"{RESNET}, structure [0-9a-f]{{12}}", found.backbone)
    assert found.normalisation == "stored"
    assert run.config().backbone.name == RESNET
    assert found.parameters == sum(p.numel() for p in own.resnet().parameters())
    capsys.readouterr()
    main(["test", str(folder), named])
    assert "reproduced exactly" in capsys.readouterr().out
    # a folder names no code that is run
    assert f"add --backbone {RESNET}" in refused(["test", str(folder)], capsys)
    other = ["test", str(folder), "--backbone=tests.metalearn.own_backbones:grouped"]
    assert "own_backbones:grouped was given" in refused(other, capsys)
    forget_the_end(run)
    assert f"add --backbone {RESNET}" in refused(["train", f"--resume={folder}"], capsys)
    main(["train", f"--resume={folder}", named])
    assert run.result().per_episode == found.per_episode


def test_a_module_is_copied_and_has_to_be_given_again(tmp_path: Path) -> None:
    net = own.Unused()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run = trained(tmp_path / "run", net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    weights = run.weights()
    assert not torch.equal(weights["backbone.net.conv.weight"], before["conv.weight"])
    # tied weights are one; an unused layer is what it was
    assert torch.equal(weights["backbone.net.again.weight"], weights["backbone.net.tied.weight"])
    assert torch.equal(weights["backbone.net.classifier.weight"], before["classifier.weight"])
    assert run.result().backbone.startswith("given:Unused, structure ")
    (started, *_) = [json.loads(x) for x in (run.folder / "events.jsonl").read_text().splitlines()]
    digest = hashlib.sha256()
    for value in before.values():
        digest.update(value.numpy().tobytes())
    assert started["initial_weights"] == digest.hexdigest()
    accuracy = run.result().per_episode
    forget_the_end(run)
    again = TrainConfig().replace(resume=run.folder)
    with pytest.raises(ConfigError, match="given:Unused; it was given in Python: give it again"):
        train(again, console=QUIET)
    with pytest.raises(ConfigError, match="backbone is given:Unused, but given:Residual was given"):
        train(again, backbone=own.Residual(1, 4), console=QUIET)
    other = own.Unused()
    other.classifier = nn.Linear(4, 11)
    with pytest.raises(RunError, match="was made with the backbone .* it is now"):
        train(again, backbone=other, console=QUIET)
    train(again, backbone=net, console=QUIET)
    assert run.result().per_episode == accuracy


def test_a_function_given_in_python_is_recorded_by_its_name(tmp_path: Path) -> None:
    assert name_of(own.resnet) == RESNET
    assert imported(RESNET) is own.resnet
    assert name_of(own.Residual) == "tests.metalearn.own_backbones:Residual"

    def local() -> nn.Module:
        return own.resnet()

    assert name_of(local).startswith("given:")
    assert name_of(lambda: own.resnet()).startswith("given:")
    assert imported("conv4") is imported("given:Unused") is None
    run = trained(tmp_path / "run", own.rows, steps=1)
    assert run.config().backbone.name == "tests.metalearn.own_backbones:rows"


def test_initial_weights_follow_from_the_seed(tmp_path: Path) -> None:
    torch.manual_seed(5)
    one = trained(tmp_path / "one", own.resnet, steps=0)
    torch.manual_seed(6)
    two = trained(tmp_path / "two", own.resnet, steps=0)
    other = trained(tmp_path / "other", own.resnet, steps=0, seed=1)
    name = "backbone.net.0.conv.weight"
    assert torch.equal(one.weights()[name], two.weights()[name])
    assert not torch.equal(one.weights()[name], other.weights()[name])


def test_a_frozen_backbone_with_no_steps_is_a_linear_probe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen, and method .* learns nothing .*--steps 0"):
        trained(tmp_path / "none", own.frozen)
    run = trained(tmp_path / "probe", own.frozen, steps=0)
    found = run.result()
    assert (found.parameters, found.best_step, found.step_bytes) == (0, 0, 0)
    assert found.normalisation == "each image by itself"
    main(["test", str(run.folder), "--backbone=tests.metalearn.own_backbones:frozen"])
    # what a method learns beside a frozen backbone is learned
    r2d2 = trained(tmp_path / "r2d2", own.frozen, method="r2d2")
    assert r2d2.result().parameters == 2
    before, after = run.weights(), r2d2.weights()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["own.sharpness"] != 10.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv5", "backbone was given as 'conv5': it is one of conv4, "),
        ("no.such:thing", "backbone no.such:thing can't be loaded .ModuleNotFoundError"),
        ("tests.metalearn.own_backbones:nothing", "can't be loaded .AttributeError"),
        ("tests.metalearn.own_backbones:torch.__version__", "is a TorchVersion: give module:f"),
        ("tests.metalearn.own_backbones:half_made", "half_made raised TypeError: .*need defaults"),
        ("tests.metalearn.own_backbones:Pair", "gave a tuple"),
        ("builtins:object", "builtins:object returned object"),
        ("given:Unused", "give it as source"),
    ],
)
def test_names_that_lead_to_no_backbone(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["train", "--dry-run", f"--backbone={name}", *SMALL], capsys)
    assert re.search(message, said)


def test_no_file_of_settings_names_code(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"backbone: {RESNET}\n")
    with pytest.raises(ConfigError, match="which is code: .* by --backbone"):
        settings(file)


def test_a_stopped_run_says_how_to_go_on() -> None:
    names = {RESNET: f" --backbone {RESNET}", "conv4": "", "given:Sequential": ""}
    for name, option in names.items():
        given = TrainConfig().replace(backbone=name).backbone
        said = str(Stopped(signal.SIGINT, 3, Path("run"), given.option))
        assert said.endswith(f"metalearn train --resume run{option}")


def test_a_learner_has_its_own_backbone_when_it_is_given_again(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", own.resnet, normalisation="stored")
    with pytest.raises(ConfigError, match=f"add --backbone {RESNET}"):
        load(run.folder)
    with pytest.raises(ConfigError, match="own_backbones:grouped was given"):
        load(run.folder, backbone=own.grouped)
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = ["a", "b", "c", "a", "b", "c"]
    found = load(run.folder, backbone=RESNET).fit(pictures, labels)
    together = found.predict_proba(pictures)
    alone = np.concatenate([found.predict_proba(picture) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    found.save(tmp_path / "saved")
    with pytest.raises(ConfigError, match=f"add --backbone {RESNET}"):
        load(tmp_path / "saved")
    again = load(tmp_path / "saved", backbone=own.resnet)
    assert np.array_equal(again.predict_proba(pictures), together)
    found.export(tmp_path / "embedding.pt2")
    program = torch.export.load(tmp_path / "embedding.pt2").module()
    images = 1 - torch.from_numpy(pictures)[:, None] / 255  # dark ink, as on paper, becomes light
    np.testing.assert_allclose(program(images), found.embed(pictures), rtol=1e-4, atol=1e-4)


def test_a_learner_whose_own_backbone_mixes_pictures_says_so(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", own.resnet, normalisation="transductive")
    pictures = np.zeros((2, 28, 28), dtype=np.uint8)
    found = load(run.folder, backbone=RESNET)
    with pytest.raises(LearnerError, match="by_support was given with a backbone of your own"):
        Learner(found.trained, by_support=True).fit(pictures, ["a", "b"])
    with pytest.raises(LearnerError, match="depend on the other pictures"):
        found.fit(pictures, ["a", "b"]).predict(pictures)
