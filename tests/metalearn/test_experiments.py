"""The long experiments, run small: what they keep is enough for their tables and figures."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from experiments import rates as experiment_rates
from experiments.__main__ import (
    KEPT,
    SEEDS,
    ExperimentConfig,
    compared,
    comparison,
    named,
    omniglot,
)
from experiments.page import METHODS
from experiments.rates import search
from metalearn.cli import main
from metalearn.cli.compare import ensure
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError, NotFiniteError, RunError
from metalearn.report.collect import collect
from metalearn.runs.folder import Run
from metalearn.runs.records import load_retested

SMALL = TrainConfig().replace(
    filters=4,
    train=EpisodeShape(way=5, shot=1, query=2),
    tasks_per_step=2,
    steps=2,
    validate_every=1,
    validation_episodes=4,
    test_episodes=4,
    hypergradient_error=True,
    threads=1,
    device="cpu",
    tracker="none",
)


def test_their_settings_are_those_of_the_published_protocols() -> None:
    found = named("omniglot-20way-1shot")
    assert (found.data.name, found.test) == ("omniglot", EpisodeShape(way=20, shot=1, query=5))
    assert (found.evaluation.test_episodes, found.backbone.filters) == (1000, 64)
    shared = named("cifar-fs-5way-5shot")
    assert (shared.test.way, shared.test.shot, shared.test.query) == (5, 5, 15)
    for method in METHODS:  # each can be made under these settings, with the same episodes
        assert shared.replace(method=method).preset().tasks_per_step == 4


def test_a_comparisons_settings_are_its_data_sets_shots_and_budget() -> None:
    whole = compared(ExperimentConfig(name="fc100"))
    assert whole == named("cifar-fs-5way-5shot").replace(data="fc100")
    asked = compared(ExperimentConfig(name="fc100", shot=1, steps=50))
    assert (asked.train.shot, asked.test.shot) == (1, 1)
    assert (asked.train.query, asked.test.query) == (5, 15)
    assert (asked.optimisation.steps, asked.evaluation.validate_every) == (50, 25)
    with pytest.raises(ConfigError, match=r"steps was given with omniglot, which compares no"):
        ExperimentConfig(name="omniglot", steps=50)


def test_a_comparison_keeps_what_its_tables_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(file=io.StringIO())
    config = ExperimentConfig(
        name="cifar-fs",
        runs=tmp_path / "runs",
        results=tmp_path / "results",
        methods=("memory-reduced", "protonet"),
        seeds=(0,),
    )
    comparison(config, SMALL, rates=(2e-3,), console=console)
    out = tmp_path / "results" / "glyphs-5way-1shot"
    assert {path.name for path in (out / "memory-reduced-0").iterdir()} == set(KEPT)
    assert Run(out / "protonet-0").config().optimisation.learning_rate == 2e-3
    assert "| protonet |" in (out / "rates.md").read_text()
    for name in ("accuracy", "hypergradient", "memory"):
        assert "memory-reduced" in (out / f"{name}.md").read_text()
        with Image.open(out / f"{name}.png") as image:
            assert min(image.size) > 400
    main(["table", "accuracy", f"--runs={out}"])
    assert "minus memory-reduced" in capsys.readouterr().out
    main(["test", str(out / "protonet-0")])
    assert "reproduced exactly: all 4 episodes" in capsys.readouterr().out
    assert [run.result.method for run in collect(out)] == ["memory-reduced", "protonet"]


def test_each_method_trains_at_the_rate_that_validates_best(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    asked = SMALL.replace(steps=20, validation_episodes=20)
    rates, table = search(
        tmp_path, asked, methods=("protonet",), seeds=(0,), rates=(1e-9, 1e-2), console=console
    )
    seen = [Run(tmp_path / f"protonet-{rate:g}").metrics()[-1] for rate in (1e-9, 1e-2)]
    assert [line["step"] for line in seen] == [10, 10]
    accuracies = [line["validation"] for line in seen]
    assert accuracies[0] < accuracies[1]
    assert rates == {"protonet": 1e-2}
    assert table.rows == [["protonet", *(f"{100 * a:.2f}" for a in accuracies), "0.01"]]


def test_a_rate_that_diverges_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(asked: TrainConfig, *, console: Console) -> None:
        if asked.optimisation.learning_rate == 1.0:
            raise NotFiniteError("the loss is nan")
        ensure(asked, console=console)

    monkeypatch.setattr(experiment_rates, "ensure", diverging)
    said = Console(file=io.StringIO())
    rates, table = search(
        tmp_path, SMALL, methods=("protonet",), seeds=(0,), rates=(1e-3, 1.0), console=said
    )
    assert rates == {"protonet": 1e-3}
    assert table.rows[0][2:] == ["diverged", "0.001"]
    with pytest.raises(RunError, match=r"protonet diverges at each of \[1.0\]: give lower ones"):
        search(tmp_path, SMALL, methods=("protonet",), seeds=(0,), rates=(1.0,), console=said)


def test_rates_are_chosen_from_none_of_the_seeds_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they are; from the experiment's own, 0 to 2, it is the 3 of the kept results."""
    searched = []

    def noting(asked: TrainConfig, *, console: Console) -> None:
        searched.append(asked.run.seed)
        raise NotFiniteError("the loss is nan")

    monkeypatch.setattr(experiment_rates, "ensure", noting)
    said = Console(file=io.StringIO())
    for seeds in (SEEDS, (3, 0), (1, 2, 3), (3, 2, 1, 0), ()):
        config = ExperimentConfig(
            name="cifar-fs", runs=tmp_path, results=tmp_path, methods=("protonet",), seeds=seeds
        )
        with pytest.raises(RunError, match="diverges"):
            comparison(config, SMALL, rates=(1.0,), console=said)
    assert searched == [3, 1, 0, 4, 0]


def test_a_run_goes_on_and_is_never_run_again(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    config = ExperimentConfig(name="omniglot", runs=tmp_path / "runs", results=tmp_path / "results")
    asked = SMALL.replace(method="protonet")
    name = "omniglot-20way-1shot"
    run, results = tmp_path / "runs" / name, tmp_path / "results" / name
    omniglot(config, asked, ways=3, console=console)
    kept = Run(results).result()
    assert load_retested(results / "3way-1shot.json").protocol.way == 3
    assert load_retested(results / "training-characters.json").protocol.split == "train"
    (run / "result.json").unlink()  # as if it had been stopped before
    omniglot(config, asked, ways=3, console=console)
    omniglot(config, asked, ways=3, console=console)
    assert Run(results).result().per_episode == kept.per_episode
    assert (results / "events.jsonl").read_text().count("resumed") == 1
    with pytest.raises(RunError, match="has other settings"):
        omniglot(config, asked.replace(seed=1), console=console)
