"""The figure of an episode shows what the run answers, and what can not be seen is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from metalearn import TrainConfig, load, train
from metalearn.cli import main
from metalearn.config.groups import EpisodeShape
from metalearn.report import episode
from metalearn.training.build import evaluation_sampler
from tests.metalearn.commands import refused

WAY, QUERY = 3, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figure") / "run"
    shape = EpisodeShape(way=WAY, shot=2, query=QUERY)
    config = TrainConfig().replace(
        run=folder,
        steps=0,
        method="protonet",
        filters=4,
        train=shape,
        test=shape,
        validation_episodes=2,
        test_episodes=3,
        threads=1,
        device="cpu",
        tracker="none",
    )
    train(config, console=Console(quiet=True))
    return folder


def test_its_cells_are_the_probabilities_of_the_recorded_test(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    saved = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        saved(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    out = tmp_path / "episode.png"
    main(["figure", "episode", f"--run={run}", "--index=1", f"--out={out}"])
    Image.open(out).verify()
    (figure,) = drawn
    panels = np.array(figure.axes).reshape(1 + WAY * QUERY, 1 + WAY)

    trained = load(run).trained
    sampler = evaluation_sampler("test", trained.config, device=trained.device)
    one = sampler.sample(1, 1)
    expected = trained.method().predict(trained.model, one)[0].double().softmax(-1)
    said = [[axes.texts[0].get_text() for axes in line[1:]] for line in panels[1:]]
    assert said == [[f"{100 * float(p):.0f} %" for p in line] for line in expected]
    framed = [[len(axes.patches) == 2 for axes in line[1:]] for line in panels[1:]]
    assert [line.index(True) for line in framed] == one.query_labels[0].tolist()
    assert all(sum(line) == 1 for line in framed)
    shown = panels[1, 0].images[0].get_array()
    assert np.array_equal(shown, (255 * one.images[0, 2 * WAY, 0]).round())
    right = int((expected.argmax(-1) == one.query_labels[0]).sum())
    assert f"{right} of {WAY * QUERY} answers right" in figure.get_suptitle()


def test_what_cannot_be_drawn_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["figure", "episode", f"--run={run}", "--index=3"], capsys)
    assert "index 3 was given, and the run was tested on episodes 0 to 2" in said
    monkeypatch.setattr(episode, "_WIDEST", WAY - 1)
    said = refused(["figure", "episode", f"--run={run}", f"--out={tmp_path / 'x.png'}"], capsys)
    assert "episodes of 3 classes, and at most 2" in said
