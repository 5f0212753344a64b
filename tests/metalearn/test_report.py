"""Comparisons, tables and figures: from result files alone, and right by hand."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from metalearn.cli import main
from metalearn.cli.compare import within
from metalearn.config.choices import BudgetKind, MethodName
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError, RunError
from metalearn.methods.overrides import passes
from metalearn.methods.presets import preset
from metalearn.report.collect import Finished, by_method, collect
from metalearn.report.paired import paired
from metalearn.report.tables import (
    accuracy_table,
    hypergradient_table,
    memory_table,
    reaching,
    usual_best,
)
from metalearn.runs.records import Measured, load_measured

SETTINGS = [
    "--steps=2",
    "--validate-every=1",
    "--validation-episodes=4",
    "--test-episodes=4",
    "--filters=4",
    "--tasks-per-step=2",
    "--train.way=5",
    "--threads=1",
    "--device=cpu",
    "--tracker=none",
    "--hypergradient-error",
]
COMPARE = ["--methods", "protonet", "memory-reduced", "--seeds", "0", "1", *SETTINGS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods from two seeds."""
    out = tmp_path_factory.mktemp("compare") / "out"
    main(["compare", f"--out={out}", *COMPARE])
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "out")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_compare_keeps_what_is_finished_and_resumes_the_rest(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {path.name for path in copy.iterdir()} == {
        "memory-reduced-0",
        "memory-reduced-1",
        "protonet-0",
        "protonet-1",
        "accuracy.md",
    }
    kept = (copy / "protonet-0" / "result.json").read_bytes()
    before = collect(copy)[0].result
    (copy / "memory-reduced-0" / "result.json").unlink()
    main(["compare", f"--out={copy}", *COMPARE])
    assert (copy / "protonet-0" / "result.json").read_bytes() == kept
    assert collect(copy)[0].result.per_episode == before.per_episode
    said = capsys.readouterr().out
    assert "resuming" in said
    assert "minus protonet" in said
    assert "memory-reduced" in (copy / "accuracy.md").read_text()
    said = refused(["compare", f"--out={copy}", *COMPARE, "--schedule=cosine"], capsys)
    assert "has other settings: give --out a new folder" in said


def test_a_budget_is_the_same_for_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrainConfig().replace(train=EpisodeShape(way=5, shot=1, query=2))
    methods: tuple[MethodName, ...] = ("protonet", "memory-reduced", "maml-omniglot")
    steps: dict[tuple[BudgetKind, float], list[int]] = {
        ("steps", 7.0): [7, 7, 7],
        ("tasks", 70.0): [70, 17, 2],  # of 1, 4 and 32 tasks a step
        ("images", 70.0 * 15): [70, 17, 2],
    }
    for budget, expected in steps.items():
        runs = [within(budget, settings.replace(method=method)) for method in methods]
        assert [run.optimisation.steps for run in runs] == expected
    assert within(("seconds", 9.5), settings.replace(method="anil")).optimisation.seconds == 9.5
    assert within(None, settings) == settings
    with pytest.raises(ConfigError, match="an upper step of maml-omniglot takes 32: give more"):
        within(("tasks", 31.0), settings.replace(method="maml-omniglot"))
    with pytest.raises(ConfigError, match="give --schedule constant"):
        within(("seconds", 9.5), settings.replace(method="memory-reduced-exact"))
    for wrong in ("--run=here", "--resume=here", "--dry-run"):
        said = refused(["compare", f"--out={tmp_path}", *COMPARE, wrong], capsys)
        assert "was given with compare" in said


def test_a_run_ends_when_its_seconds_are_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    unlimited = [setting for setting in SETTINGS if not setting.startswith("--steps")]
    unlimited[unlimited.index("--validate-every=1")] = "--validate-every=100000"
    arguments = ["--methods", "protonet", "--seeds", "0", "--budget", "seconds", "0.001"]
    main(["compare", f"--out={out}", *arguments, *unlimited])
    (run,) = collect(out)
    # the set-up alone takes longer: no step, and yet a validation
    assert [line["step"] for line in run.metrics] == [0]
    assert "passes a step" in (out / "accuracy.md").read_text()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("memory-reduced-exact", 1),
        ("r2d2", 1),
        ("maml", 5 + 1),
        ("fomaml", 5 + 1),
        ("imaml", 16 + 5 + 1),
        ("reptile", 8),
    ],
)
def test_passes_of_an_upper_step(method: str, expected: int) -> None:
    assert passes(preset(method).method) == expected


def altered(run: Finished, **changes: object) -> Finished:
    return dataclasses.replace(run, result=dataclasses.replace(run.result, **changes))  # type: ignore[arg-type]


def test_differences_are_paired_by_episode(folder: Path) -> None:
    (first, second) = by_method(collect(folder))["protonet"]
    # Episodes differ widely in how hard they are, the methods by the same everywhere.
    hard = [0.2, 0.9, 0.4, 0.7]
    those = [altered(first, per_episode=hard), altered(second, per_episode=hard)]
    these = [
        altered(first, per_episode=[a + 0.10 for a in hard]),
        altered(second, per_episode=[a + 0.04 for a in hard]),
    ]
    found = paired(these, those)
    assert found.mean == pytest.approx(0.07)
    assert found.interval == pytest.approx(0.0, abs=1e-12)
    assert found.seeds == pytest.approx([0.10, 0.04])
    # Student's t for one degree of freedom: tan(0.475 pi) = 12.706; s / sqrt(2) = 0.03.
    assert found.spread == pytest.approx(math.tan(0.475 * math.pi) * 0.03)
    assert math.isinf(paired(these[:1], those[:1]).spread)
    by_hand = altered(first, per_episode=[0.2, 0.9, 0.4, 0.8])
    apart = paired([by_hand], those[:1])
    # differences 0, 0, 0, 0.1: mean 0.025, s = 0.05
    assert (apart.mean, apart.interval) == pytest.approx((0.025, 1.96 * 0.05 / 2))


def test_what_cannot_be_compared_is_refused(folder: Path, tmp_path: Path) -> None:
    (first, second) = by_method(collect(folder))["protonet"]
    with pytest.raises(RunError, match=r"has seeds \[0\], protonet has \[1\]"):
        paired([first], [second])
    with pytest.raises(RunError, match=r"protonet has seeds \[0, 0\]"):
        by_method([first, first])
    other = dataclasses.replace(first.result.protocol, way=7)
    with pytest.raises(RunError, match="different protocols"):
        by_method([first, altered(second, protocol=other)])
    wider = dataclasses.replace(second, config=second.config.replace(filters=8))
    with pytest.raises(RunError, match="all runs should have the same filters, but have 4, 8"):
        by_method([first, wider])
    longer = dataclasses.replace(second, config=second.config.replace(steps=3))
    with pytest.raises(RunError, match="the runs of protonet should have the same steps"):
        by_method([first, longer])
    with pytest.raises(RunError, match="different numbers of episodes"):
        paired([first, altered(second, per_episode=[0.5])], [first, second])
    with pytest.raises(RunError, match="no run of maml is here"):
        accuracy_table([first], reference="maml")
    with pytest.raises(RunError, match="holds no finished run"):
        collect(tmp_path)


def test_time_is_to_the_first_validation_that_is_good_enough(folder: Path) -> None:
    run = dataclasses.replace(
        collect(folder)[0],
        metrics=[
            {"step": 1, "seconds": 3.0, "validation": 0.5},
            {"step": 2, "seconds": 7.0, "validation": 0.8},
            {"step": 3, "seconds": 9.0, "validation": 0.6},
        ],
    )
    assert [reaching(run, level) for level in (0.4, 0.6, 0.9)] == [3.0, 7.0, math.inf]


def test_the_worst_method_reaches_its_own_best(folder: Path) -> None:
    first = collect(folder)[0]

    def run(seed: int, *validations: float) -> Finished:
        metrics = [
            {"step": n, "seconds": 1.0 * n, "validation": v} for n, v in enumerate(validations, 1)
        ]
        return dataclasses.replace(altered(first, seed=seed), metrics=metrics)

    # One lucky seed is not what the method reaches.
    own = [run(0, 0.5, 0.6), run(1, 0.9, 0.7)]
    assert usual_best(own) == 0.6
    table = accuracy_table(own)
    place = table.columns.index("seconds to 60.0 %")
    assert [row[place] for row in table.rows] == ["2"]


def test_a_table_says_whose_accuracy_it_is(folder: Path) -> None:
    runs = collect(folder)
    said = {
        kind: accuracy_table(
            [
                dataclasses.replace(run, result=dataclasses.replace(run.result, normalisation=kind))
                for run in runs
            ]
        ).notes[0]
        for kind in ("transductive", "stored")
    }
    assert said["transductive"].endswith("(accuracy of whole episodes, not of single pictures)")
    assert said["stored"].endswith("normalisation stored (accuracy of single pictures, too)")


def test_names_are_never_cut_short(folder: Path) -> None:
    rows = accuracy_table(collect(folder))
    for terminal in (True, False):
        page = io.StringIO()
        rows.show(Console(file=page, width=60, force_terminal=terminal, color_system=None))
        assert any(line.startswith("│ memory-reduced ") for line in page.getvalue().splitlines())
        heading = [line for line in page.getvalue().splitlines() if line.startswith("┃")]
        whole = [line for line in heading if rows.columns[5] in line]
        assert len(whole) == (0 if terminal else 1)


def test_tables_and_figures_are_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "memory.json"
    main(
        [
            "measure",
            f"--out={measured}",
            "--methods",
            "memory-reduced",
            "maml",
            "--k",
            "2",
            "4",
            "6",
            *SETTINGS,
        ]
    )
    peaks = json.loads(measured.read_text())["peaks"]
    assert peaks.keys() == {"memory-reduced", "maml"}
    # a few recorded steps of a head lie below the peak, which is in the backbone's backward
    assert peaks["maml"]["6"] > peaks["maml"]["2"]
    assert peaks["memory-reduced"]["6"] == peaks["memory-reduced"]["2"]
    for kind, source in (
        ("accuracy", f"--runs={folder}"),
        ("memory", f"--measured={measured}"),
        ("hypergradient", f"--runs={folder}"),
    ):
        out = tmp_path / f"{kind}.png"
        main(["figure", kind, source, f"--out={out}"])
        with Image.open(out) as image:
            assert min(image.size) > 400
        page = tmp_path / f"{kind}.md"
        main(["table", kind, source, f"--out={page}"])
        assert page.read_text().count("\n|") >= 3  # heading, rule, and a row for each method
    assert "5-way 1-shot" in capsys.readouterr().out
    said = refused(["figure", "memory", f"--measured={folder / 'accuracy.md'}"], capsys)
    assert "unreadable or damaged" in said
    said = refused(
        ["figure", "accuracy", f"--runs={folder}", f"--out={measured / 'below.png'}"], capsys
    )
    assert "can't be written" in said


def test_the_hypergradients_table_by_hand(folder: Path) -> None:
    first = next(run for run in collect(folder) if run.result.method == "memory-reduced")

    def run(seed: int, *errors: float) -> Finished:
        metrics = [
            line | {"hypergradient_error": error, "hypergradient_cosine": 1 - error / 4}
            for line, error in zip(first.metrics, errors, strict=True)
        ]
        return dataclasses.replace(altered(first, seed=seed), metrics=metrics)

    rows = hypergradient_table([run(0, 2.0, 0.5), run(1, 1.0, 0.3)]).rows
    # medians of (2, 1), of (2, 0.5, 1, 0.3) and of (0.5, 0.3)
    assert [row[:6] for row in rows] == [
        ["memory-reduced", "1.5e+00", "7.5e-01", "4.0e-01", "2.0e+00", "0.812"]
    ]


def test_runs_without_the_error_are_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["table", "hypergradient", f"--runs={folder / 'protonet-0'}"], capsys)
    assert "train with --hypergradient-error" in said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_the_allocators_peak_is_measured(tmp_path: Path) -> None:
    settings = [each for each in SETTINGS if "device" not in each]
    main(["measure", f"--out={tmp_path / 'm.json'}", "--methods=itd-bio", "--k=2", *settings])
    found = load_measured(tmp_path / "m.json")
    assert found.measure == "CUDA allocator's peak"
    assert found.peaks["itd-bio"]["2"] > 2 * 5 * 3 * 28 * 28 * 4  # at least the images


def test_the_memory_table_by_hand() -> None:
    measured = Measured(
        measure="live tensor bytes",
        protocol="p",
        peaks={"a": {"1": 2**20, "5": 2**20}, "b": {"1": 2**20, "5": 2**20 + 4096}},
        commit="c",
        dirty=False,
        versions={"torch": "2"},
        device="cpu",
        seed=0,
    )
    assert memory_table(measured).rows == [["a", "1.0", "1.0", "0.0"], ["b", "1.0", "1.0", "1.0"]]


def test_a_learner_can_be_tested_otherwise(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = folder / "memory-reduced-0", tmp_path / "test.json"
    main(["test", str(run), f"--out={out}", "--split=test"])
    assert "reproduced exactly" not in capsys.readouterr().out
    (point,) = json.loads(out.read_text())["points"]
    # The same episodes as its own test: the same answers.
    assert point["per_episode"] == collect(folder)[0].result.per_episode
    main(
        [
            "test",
            str(run),
            f"--out={out}",
            "--way=3",
            "--shot=2",
            "--lower-steps",
            "0",
            "5",
        ]
    )
    record = json.loads(out.read_text())
    assert record["protocol"]["way"] == 3
    picture = tmp_path / "adaptation.png"
    main(["figure", "adaptation", "--tested", str(out), f"--out={picture}"])
    with Image.open(picture) as image:
        assert min(image.size) > 400
    start, later = record["points"]
    assert (start["lower_steps"], later["lower_steps"]) == (0, 5)
    # A head of zeros names the first class throughout: a third of the queries are right, at 1/3.
    assert start["accuracy"] == pytest.approx(1 / 3)
    assert start["calibration"]["error"] == pytest.approx(0, abs=1e-6)
    assert start["calibration"]["log_loss"] == pytest.approx(math.log(3))
    assert later["per_episode"] != start["per_episode"]
    assert "3-way 2-shot" in " ".join(capsys.readouterr().out.split())
    said = refused(
        ["test", str(folder / "protonet-0"), f"--out={out}", "--lower-steps", "3"], capsys
    )
    assert "lower_steps 3 was given with ProtoNet" in said
    other = tmp_path / "other.json"
    main(["test", str(folder / "protonet-0"), f"--out={other}"])
    said = refused(["figure", "adaptation", "--tested", str(out), str(other)], capsys)
    assert "are of different episodes" in said
    said = refused(["figure", "adaptation", "--tested", str(folder / "accuracy.md")], capsys)
    assert "unreadable or damaged" in said
