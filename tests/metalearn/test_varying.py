"""Episodes whose number of classes and of support images varies, drawn and learned from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn.cli import main
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig, from_json, to_json
from metalearn.data import Pool
from metalearn.errors import ConfigError, EpisodeError
from metalearn.methods import Method
from metalearn.methods.presets import PRESETS
from metalearn.runs.folder import Run
from metalearn.tasks.episodes import Sampler
from metalearn.testing.accuracy import accuracy
from metalearn.training.build import build_model
from tests.metalearn.commands import SMALL, refused
from tests.metalearn.methods.subjects import TASKS, close, episodes, found, model
from tests.metalearn.methods.test_accumulate import METHODS

CPU = torch.device("cpu")


def sampler(pool: Pool) -> Sampler:
    return Sampler(
        pool=pool, way=6, shot=4, query=2, seed=0, fewest_way=3, fewest_shot=1, augmentation=None
    )


def test_shapes_vary_within_their_bounds_and_images_are_their_classes(train_pool: Pool) -> None:
    draws = sampler(train_pool)
    ways, shots = set(), set()
    unequal = 0
    for index in range(60):
        batch = draws.sample(index, 1)
        counts = torch.bincount(batch.support_labels[0], minlength=batch.way)
        ways.add(batch.way)
        shots |= set(counts.tolist())
        unequal += len(set(counts.tolist())) > 1
        labels = torch.cat((batch.support_labels, batch.query_labels), 1)[0]
        assert batch.images.shape[:2] == (1, len(labels))
        assert batch.shot == counts.max()
        assert torch.equal(torch.bincount(batch.query_labels[0]), torch.full((batch.way,), 2))
        flat, *_ = draws._draw(index)  # each label stands for one class of the pool
        homes = zip(labels.tolist(), (flat // train_pool.examples).tolist(), strict=True)
        assert len(set(homes)) == batch.way
    assert ways == {3, 4, 5, 6}
    assert shots == {1, 2, 3, 4}
    assert unequal
    with pytest.raises(EpisodeError, match="2 episodes were asked for together"):
        draws.sample(0, 2)
    fixed = draws.largest()
    assert torch.equal(fixed.sample(3, 1).images[0], fixed.sample(2, 2).images[1])


def test_support_and_query_share_no_image(train_pool: Pool) -> None:
    flat, _, shots = sampler(train_pool)._draw(7)
    assert len(np.unique(flat)) == len(flat) == shots.sum() + 2 * len(shots)


@pytest.mark.parametrize("name", METHODS)
def test_unequal_shots_are_those_of_the_definition(name: str) -> None:
    """A class's image that is left out of the support is as if it had never been drawn."""
    method: Method = METHODS[name]
    subject, batch = model(method), episodes()
    kept = torch.tensor([0, 1, 2, 3, 5])  # the second image of class 1 is missing
    query = torch.arange(6, batch.images.shape[1])
    unequal = dataclasses.replace(
        batch,
        images=batch.images[:, torch.cat((kept, query))],
        support_labels=batch.support_labels[:, kept],
    )
    whole = found(method, subject, unequal)
    each = [found(method, subject, task) for task in unequal.split(1)]
    assert close(torch.stack(each).mean(0), whole)
    assert not close(whole, found(method, subject, batch), condition=1e6)
    assert len(each) == TASKS


def test_means_of_unequal_shots_are_over_the_shots_there_are() -> None:
    subject, batch = model(METHODS["protonet"]), episodes()
    kept, query = torch.tensor([0, 1, 2, 3, 5]), torch.arange(6, batch.images.shape[1])
    images = batch.images[:, torch.cat((kept, query))]
    unequal = dataclasses.replace(
        batch, images=images, support_labels=batch.support_labels[:, kept]
    )
    features = subject.features(images, len(kept))
    support, asked = features[:, : len(kept)], features[:, len(kept) :]
    means = torch.stack(
        [(support[:, 0] + support[:, 3]) / 2, support[:, 1], support[:, [2, 4]].mean(1)], 1
    )
    distances = (asked[:, :, None] - means[:, None]).square().sum(-1)
    scores = METHODS["protonet"].predict(subject, unequal)
    assert close(scores.softmax(-1), (-distances).softmax(-1))


def test_accuracy_counts_each_episodes_own_queries(train_pool: Pool) -> None:
    config = TrainConfig().replace(
        method="protonet",
        filters=4,
        tasks_per_chunk=1,
        test=EpisodeShape(way=6, shot=4, query=2, fewest_way=3, fewest_shot=1),
    )
    draws = sampler(train_pool)
    built = build_model(config, train_pool, device=CPU)
    method = PRESETS["protonet"].method
    answered = accuracy(method, built, draws, 4, tasks_per_chunk=1)
    built.eval()
    batches = [draws.sample(index, 1) for index in range(4)]
    assert len({batch.way for batch in batches}) > 1
    right = [
        (method.predict(built, batch).argmax(-1) == batch.query_labels).double().mean()
        for batch in batches
    ]
    assert torch.allclose(answered.episodes, torch.stack(right), rtol=1e-15)
    assert sum(answered.calibration.counts) == sum(batch.query_labels.numel() for batch in batches)


def test_a_run_of_varying_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    varying = ["--train.fewest-way=3", "--train.fewest-shot=1", "--train.shot=3", "--test.shot=2"]
    one = [f"--run={tmp_path / 'run'}", *SMALL, *varying, "--test.fewest-shot=1"]
    assert "give --tasks-per-chunk 1" in refused(["train", *one], capsys)
    anil = ["train", *one, "--tasks-per-chunk=1", "--method=anil"]
    assert "method anil learns an initial head for 5 classes" in refused(anil, capsys)
    main(["train", *one, "--tasks-per-chunk=1"])
    run = Run(tmp_path / "run")
    assert run.result().protocol.shape == EpisodeShape(way=5, shot=2, query=5, fewest_shot=1)
    assert from_json(to_json(run.config())) == run.config()
    main(["test", str(run.folder)])
    assert "reproduced exactly" in capsys.readouterr().out
    main(["test", str(run.folder), "--fewest-way=2", "--episodes=4"])
    assert "2 to 5-way 1 to 2-shot, 5 queries per class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"fewest_way": 1}, "fewest_way was given as 1: it must be at least 2"),
        ({"fewest_way": 6}, "fewest_way was given as 6, which is more than way, 5"),
        ({"fewest_shot": 2}, "fewest_shot was given as 2, which is more than shot, 1"),
    ],
)
def test_bounds_that_hold_nothing(shape: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EpisodeShape(**shape)
