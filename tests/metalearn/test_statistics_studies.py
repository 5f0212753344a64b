"""The studies of what normalises pictures, and of other domains, run small."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments import cross_domain, normalisation
from experiments.__main__ import named
from experiments.normalisation import ALONE, BY_CLASS, SUPPORT, TOGETHER
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.runs.folder import Run
from metalearn.training.build import build_model, evaluation_sampler

SMALL = TrainConfig().replace(
    filters=8,
    train=EpisodeShape(way=5, shot=1, query=2),
    test=EpisodeShape(way=5, shot=1, query=3),
    tasks_per_step=2,
    steps=2,
    validate_every=2,
    validation_episodes=2,
    test_episodes=6,
    threads=1,
    device="cpu",
    tracker="none",
)
Key = tuple[str, str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs, which both studies use."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def record(runs: Path) -> dict[str, Any]:
    return normalisation.study(runs, [SMALL], episodes=6, console=quiet())


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_single_pictures_have_the_accuracy_that_is_printed_as_theirs(
    record: dict[str, Any],
) -> None:
    rows: dict[Key, dict[str, Any]] = {(r["trained"], r["way"]): r for r in record["rows"]}
    printed = {run["normalisation"]: run["printed"] for run in record["runs"]}
    for kind in ("stored", "group"):
        # the same answers: they differ by the rounding of batches of one and of many
        assert rows[kind, ALONE]["apart"] == 0
        # float64 sums in another order
        assert rows[kind, ALONE]["accuracy"] == pytest.approx(printed[kind]["accuracy"], abs=1e-12)
    assert rows["transductive", TOGETHER]["accuracy"] == pytest.approx(
        printed["transductive"]["accuracy"], abs=1e-12
    )
    # what the table is for: here no way's answers are another's
    assert len({rows["transductive", way]["accuracy"] for way in normalisation.WAYS}) == 4


def test_the_record_says_what_was_trained(record: dict[str, Any], runs: Path) -> None:
    assert [run["normalisation"] for run in record["runs"]] == list(normalisation.KINDS)
    for run in record["runs"]:
        own = Run(runs / f"glyphs-{run['normalisation']}-0")
        assert run["files"] == own.result().files
        assert run["steps"] == run["settings"]["steps"] == 2
        assert not {"run", "resume", "data_root"} & run["settings"].keys()


def test_the_study_writes_a_row_for_each_run(record: dict[str, Any], tmp_path: Path) -> None:
    normalisation.write(record, tmp_path, console=quiet())
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| glyphs")]
    assert [line.split(" | ")[2] for line in lines] == list(normalisation.KINDS)
    kept = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert normalisation.table(kept).markdown() == text


def test_queries_are_parted_in_three_ways() -> None:
    asked = torch.tensor([0, 1, 0])
    found = {way: normalisation.parts(asked, way) for way in (TOGETHER, BY_CLASS, ALONE)}
    assert [part.tolist() for part in found[TOGETHER]] == [[0, 1, 2]]
    assert [part.tolist() for part in found[BY_CLASS]] == [[0, 2], [1]]
    assert [part.tolist() for part in found[ALONE]] == [[0], [1], [2]]


def test_answers_by_the_support_know_no_other_query(runs: Path, record: dict[str, Any]) -> None:
    run = Run(runs / "glyphs-transductive-0")
    assert record["runs"][0]["files"] == run.result().files
    settings = run.config()
    device = torch.device("cpu")
    sampler = evaluation_sampler("test", settings, device=device)
    model = build_model(settings, sampler.pool, device=device).eval()
    model.load_state_dict(run.weights())
    batch = sampler.sample(0, 2)
    found = normalisation.answered(settings.preset().method, model, batch, [SUPPORT])[SUPPORT]
    batch.images[:, -1] = 0  # the last query, in place
    again = normalisation.answered(settings.preset().method, model, batch, [SUPPORT])[SUPPORT]
    assert torch.equal(found[:, :-1], again[:, :-1])


def test_each_run_is_tested_on_each_data_set(
    runs: Path, record: dict[str, Any], tmp_path: Path
) -> None:
    found = cross_domain.study(runs, [SMALL], kinds=["group"], episodes=2, console=quiet())
    assert [run["files"] for run in found["runs"]] == [record["runs"][2]["files"]]
    (line,) = found["rows"]
    assert (line["trained_on"], line["tested_on"], line["normalisation"]) == (
        *("glyphs", "glyphs"),
        "group",
    )
    cross_domain.write(found, tmp_path, console=quiet())
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| glyphs, 5-way, 2 steps | group |" in text


@pytest.mark.parametrize("study", [normalisation, cross_domain])
def test_the_kept_tables_are_those_of_their_records(study: ModuleType) -> None:
    kept = Path(__file__).parents[2] / "results" / study.__name__.split(".")[1].replace("_", "-")
    record = json.loads((kept / "study.json").read_text(encoding="utf-8"))
    assert (kept / "study.md").read_text(encoding="utf-8") == study.table(record).markdown()
    # each cell of the record is in the table, under whatever name its run has the data
    text = study.table(record).markdown()
    shown = [f"{100 * r['accuracy']:.2f} ± {100 * r['interval']:.2f}" for r in record["rows"]]
    assert all(cell in text for cell in shown)


@pytest.mark.parametrize("name", normalisation.SHORT)
def test_short_runs_can_be_made(name: str) -> None:
    asked = named(name) if name != "glyphs" else TrainConfig()
    short = normalisation.short(name, asked)
    assert short.optimisation.steps == normalisation.STEPS
    assert short.preset().schedule == "cosine"
    assert short.data.name in name
