"""`--jitter`: Omniglot's training drawings move, the others and the draw of classes do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metalearn.config.commands import PrepareConfig
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.data.prepare import prepare
from metalearn.errors import ConfigError
from metalearn.tasks.episodes import GLYPH_JITTER
from metalearn.training.build import evaluation_sampler, training_sampler
from tests.metalearn import legacy


def test_training_drawings_move_and_nothing_else(tmp_path: Path) -> None:
    sources = []
    for name, content in legacy.omniglot().items():
        (tmp_path / name).write_bytes(content)
        sources.append(tmp_path / name)
    root = tmp_path / "data"
    prepare(PrepareConfig(dataset="omniglot", source=tuple(sources), root=root, allow_partial=True))
    shape, device = EpisodeShape(way=4, shot=1, query=2), torch.device("cpu")
    plain = TrainConfig().replace(data="omniglot", data_root=root, train=shape, test=shape)
    moved = plain.replace(jitter=True)
    still, jittered = (training_sampler(each, device=device) for each in (plain, moved))
    assert (still.augmentation, jittered.augmentation) == (None, GLYPH_JITTER)
    ours, theirs = still.sample(3, 2), jittered.sample(3, 2)
    assert not torch.equal(ours.images, theirs.images)
    # the same drawings: ink is kept up to scale, shear and what leaves the picture
    apart = (ours.images.mean((2, 3, 4)) / theirs.images.mean((2, 3, 4))).log().abs()
    assert apart.median() < 0.25
    for split in ("validation", "test"):
        same = [evaluation_sampler(split, each, device=device) for each in (plain, moved)]
        assert torch.equal(same[0].sample(0, 2).images, same[1].sample(0, 2).images)


def test_other_data_refuse_it() -> None:
    with pytest.raises(ConfigError, match="jitter was given with data glyphs: it is for omniglot"):
        TrainConfig().replace(jitter=True)


def test_a_result_names_it() -> None:
    found = TrainConfig().replace(data="omniglot", jitter=True).preset()
    assert "jitter = True" in found.departures
