"""Features of a frozen backbone are computed once, kept in a file, and never those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from metalearn import TrainConfig, load, train
from metalearn.cli import main
from metalearn.config.commands import PrepareConfig
from metalearn.config.groups import EpisodeShape
from metalearn.data.prepare import prepare
from metalearn.errors import ConfigError, DamagedCacheWarning
from metalearn.runs.folder import Run
from tests.metalearn.test_own_backbones import QUIET, TINY, forget_the_end

SIDE = 12
NAME = "tests.metalearn.test_features:small"
SHAPE = EpisodeShape(way=2, shot=1, query=2)


class Small(nn.Module):
    """Counts the pictures that it is asked for."""

    seen = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        Small.seen += len(images)
        return torch.tanh(self.norm(self.conv(images))).mean((2, 3))


class Halved(Small):
    """Has a buffer in bfloat16."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))


class Centred(Small):
    """Takes the mean of its batch away."""

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(0)


def small(channels: int) -> nn.Module:
    return Small(channels)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise: 3 classes of 4 in each split."""
    folder, draw = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for place in range(12):
            file = folder / "photos" / split / f"{split}{place // 4}" / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file)
    source = (folder / "photos",)
    prepare(PrepareConfig(dataset="folders", source=source, side=SIDE, root=folder / "data"))
    return folder / "data"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def trained(root: Path, folder: Path, **changes: Any) -> Run:
    usual = {"frozen": True, "cache_features": True, "augment": False, "method": "r2d2"}
    data = {"data": "folders", "data_root": root, "train": SHAPE, "test": SHAPE}
    backbone = changes.pop("backbone", small)
    train(TINY.replace(run=folder, **data | usual | changes), backbone=backbone, console=QUIET)
    return Run(folder)


def test_each_picture_passes_once_and_the_run_is_the_same(
    root: Path, cache: Path, tmp_path: Path
) -> None:
    plain = trained(root, tmp_path / "plain", cache_features=False)
    assert not cache.exists()
    seen = Small.seen
    run = trained(root, tmp_path / "run")
    assert len(list(cache.iterdir())) == 3
    computed = Small.seen - seen
    seen = Small.seen
    again = trained(root, tmp_path / "again")
    # the trial of any own backbone is all that is left; 3 splits of 12 pictures were computed
    assert computed - (Small.seen - seen) == 36
    assert again.result().per_episode == run.result().per_episode == plain.result().per_episode
    for name, value in plain.weights().items():
        # a batch of another size, in float32
        torch.testing.assert_close(run.weights()[name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(again.weights()[name], run.weights()[name])

    seen = Small.seen
    main(["test", str(run.folder), f"--backbone={NAME}"])
    forget_the_end(run)
    train(TrainConfig().replace(resume=run.folder, backbone=NAME), console=QUIET)
    assert len(list(cache.iterdir())) == 3
    assert run.result().per_episode == again.result().per_episode
    # what was learned answers for pictures, by the backbone itself
    pictures = np.random.default_rng(1).integers(0, 256, (4, 20, 20, 3), np.uint8)
    one, other = (
        load(each.folder, backbone=small).fit(pictures, [0, 1, 0, 1]).predict_proba(pictures)
        for each in (run, plain)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_other_weights_or_pictures_have_other_features(
    root: Path, cache: Path, tmp_path: Path
) -> None:
    trained(root, tmp_path / "one", steps=0)
    assert len(list(cache.iterdir())) == 2  # nothing is trained on
    trained(root, tmp_path / "two", steps=0, seed=1)
    assert len(list(cache.iterdir())) == 4
    trained(root, tmp_path / "three", steps=0, precision="bfloat16")
    assert len(list(cache.iterdir())) == 6
    net = small(3)
    trained(root, tmp_path / "four", backbone=net, steps=0)
    with torch.no_grad():
        net.get_parameter("conv.bias")[0] += 1e-6
    trained(root, tmp_path / "five", backbone=net, steps=0)
    assert len(list(cache.iterdir())) == 10


def test_a_buffer_of_a_format_that_numpy_has_not(root: Path, cache: Path, tmp_path: Path) -> None:
    trained(root, tmp_path / "run", backbone=Halved(3), steps=0)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_said_and_made_anew(
    damage: str, root: Path, cache: Path, tmp_path: Path
) -> None:
    run = trained(root, tmp_path / "run", steps=0)
    kept = {file: safetensors.torch.load_file(file)["features"].clone() for file in cache.iterdir()}
    for file in kept:
        content = file.read_bytes()
        if damage == "cut":
            file.write_bytes(content[:-5])
        else:  # of the right form, with a digit of one feature changed
            file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.warns(DamagedCacheWarning, match="are damaged .*: they are computed anew"):
        again = trained(root, tmp_path / "again", steps=0)
    assert again.result().per_episode == run.result().per_episode
    for file, before in kept.items():
        features = safetensors.torch.load_file(file)["features"]
        assert torch.equal(features, before)
        assert features.shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frozen": False}, "which is not frozen: .* Give --frozen"),
        ({"augment": True}, "of the train split are changed at random each time: give --no-aug"),
        ({"data": "glyphs"}, "glyphs are always changed"),
        ({"backbone": Centred}, "in which the pictures of a batch meet"),
    ],
)
def test_features_that_are_not_always_the_same_are_not_kept(
    settings: dict[str, Any], said: str, root: Path, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        trained(root, tmp_path / "run", **settings)
    assert not cache.exists() or not list(cache.iterdir())
