"""Each name that settings choose from has all that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch

from metalearn.config.choices import BackboneName, DatasetName
from metalearn.config.train import TrainConfig
from metalearn.data import Pool
from metalearn.data.published import published
from metalearn.data.readers import READERS
from metalearn.training.build import build_model
from tests.metalearn.legacy import FORMS

DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)


def test_a_data_set_has_facts_readers_a_form_and_a_row_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert set(READERS) == set(DATASETS)
    for name in DATASETS:
        assert published(name).name == name
        assert READERS[name], name
        assert f"\n| `{name}` |" in page, name
    # people's own folders are no form of a published set, and have tests of their own
    assert {name for name, *_ in FORMS.values()} >= set(DATASETS) - {"folders"}


def test_a_backbone_has_a_network_of_its_own(train_pool: Pool) -> None:
    sizes = {}
    for name in get_args(BackboneName):
        # no dropped squares: they are larger than the last images of 28 pixels
        config = TrainConfig().replace(backbone=name, drop_rate=0.0)
        model = build_model(config, train_pool, device=torch.device("cpu"))
        sizes[name] = sum(weight.numel() for weight in model.parameters())
    assert len(set(sizes.values())) == len(sizes), sizes
