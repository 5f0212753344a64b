"""The searches by validation and the studies of the experiments, run small."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from scipy import stats

from experiments import batches, drawings, planned, residual, search
from experiments.__main__ import named
from metalearn.cli.compare import ensure
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.data.untrusted.images import decode
from metalearn.errors import ConfigError, RunError
from metalearn.methods.overrides import numbers
from metalearn.runs.folder import Run

SMALL = TrainConfig().replace(
    method="memory-reduced",
    filters=4,
    train=EpisodeShape(way=5, shot=1, query=2),
    tasks_per_step=2,
    steps=2,
    validate_every=1,
    validation_episodes=2,
    test_episodes=2,
    hypergradient_error=True,
    threads=1,
    device="cpu",
    tracker="none",
)


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_a_search_changes_what_it_says_and_looks_at_validation(tmp_path: Path) -> None:
    variants = {"plain": {}, "slow": {"learning_rate": 1e-5, "wide_heads": True}}
    rows = search.search(tmp_path, SMALL, variants=variants, steps=1, console=quiet())
    configs = [Run(tmp_path / name).config() for name in ("0", "1")]
    assert [config.optimisation.learning_rate for config in configs] == [None, 1e-5]
    assert [config.method.wide_heads for config in configs] == [False, True]
    assert {config.run.seed for config in configs} == {search.SEED}
    assert [row[0] for row in rows.rows] == ["plain", "slow"]
    last = [Run(tmp_path / name).metrics()[-1]["validation"] for name in ("0", "1")]
    assert [row[1].split(" ")[0] for row in rows.rows] == [f"{100 * each:.2f}" for each in last]


def test_each_variant_for_omniglot_is_a_run_that_can_be_made() -> None:
    asked = named("omniglot-20way-1shot")
    for changed in search.OMNIGLOT.values():
        own = asked.replace(**changed)
        shape = own.train
        images = own.preset().tasks_per_step * shape.way * (shape.shot + shape.query)
        assert images == 240  # equal work, as the table's settings say


def archive(path: Path, *, mode: str) -> Path:
    """An archive with one drawing, a diagonal line."""
    drawing, content = Image.new(mode, (105, 105), 1), io.BytesIO()
    ImageDraw.Draw(drawing).line((5, 9, 90, 99), fill=0, width=3)
    drawing.save(content, "PNG")
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("images_background/A/character01/0001_01.png", content.getvalue())
    return path


def test_drawings_resized_as_they_are_stay_black_and_white(tmp_path: Path) -> None:
    source = archive(tmp_path / "in.zip", mode="1")
    drawings.black_and_white(source, tmp_path / "out.zip", side=28)
    found = []
    for path in (tmp_path / "out.zip", source):
        with zipfile.ZipFile(path) as files:
            (name,) = files.namelist()
            found.append(decode(files.read(name), name, side=28, channels=1, invert=True))
    assert name == "images_background/A/character01/0001_01.png"
    values = [set(image.ravel().tolist()) for image in found]
    assert values[0] == {0, 255}
    assert len(values[1]) > 10  # smooth: what `metalearn prepare` makes of it


def test_drawings_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    grey = archive(tmp_path / "images_background.zip", mode="L")
    with pytest.raises(ConfigError, match="a picture of mode L: give the official"):
        drawings.black_and_white(grey, tmp_path / "out.zip", side=28)
    with pytest.raises(ConfigError, match=r"give images_background.zip and images_evaluation.zip"):
        drawings.prepared(tmp_path, (grey,), console=quiet())


def test_drawings_are_compared_from_the_same_seeds() -> None:
    roots = {drawings.GREY: Path("a"), drawings.BLACK_AND_WHITE: Path("b")}
    asked = named("omniglot-20way-1shot").replace(**drawings.SHORT)
    runs = [asked.replace(**each) for each in drawings.variants(roots, seeds=(1, 2)).values()]
    assert [(str(run.data.root), run.run.seed) for run in runs] == [
        *(("a", 1), ("b", 1)),
        *(("a", 2), ("b", 2)),
    ]


def points(errors: dict[tuple[int, int], float]) -> list[residual.Point]:
    """Runs of three seeds whose accuracy falls by 0.03 a decade of error, exactly."""
    found = []
    for (k, n), exponent in errors.items():
        for seed in range(3):
            found.append(
                residual.Point(
                    K=k,
                    N=n,
                    seed=seed,
                    error=10**exponent,
                    cosine=0.5,
                    residual=0.1,
                    stationarity=0.2,
                    accuracy=0.6 - 0.03 * exponent + 0.01 * (seed - 1),
                    interval=0.01,
                )
            )
    return found


def test_the_line_is_that_of_the_cells() -> None:
    line = residual.regression(points({(1, 1): 0.5, (1, 9): 0.0, (9, 1): -1.0, (9, 9): -2.0}))
    assert line.slope == pytest.approx(-0.03)
    assert line.intercept == pytest.approx(0.6)
    assert line.half == pytest.approx(0, abs=1e-9)
    assert line.explained == pytest.approx(1)
    assert line.cells == 4


def test_the_line_of_cells_off_it_is_scipys() -> None:
    cells = {(1, 1): 1.0, (1, 9): 0.2, (9, 1): -1.0, (9, 9): -2.0}
    lift = dict(zip(cells, (0.05, -0.04, 0.01, 0.02), strict=True))
    found = [replace(p, accuracy=p.accuracy + lift[p.K, p.N]) for p in points(cells)]
    line = residual.regression(found)
    x, y = list(cells.values()), [0.6 - 0.03 * at + lift[cell] for cell, at in cells.items()]
    fit = stats.linregress(x, y)
    assert (line.slope, line.intercept) == pytest.approx((fit.slope, fit.intercept))
    assert line.half == pytest.approx(stats.t.ppf(0.975, 2) * fit.stderr)
    assert line.explained == pytest.approx(fit.rvalue**2)
    assert line.height(0.0)[1] == pytest.approx(stats.t.ppf(0.975, 2) * fit.intercept_stderr)


def test_the_study_writes_what_its_page_reads(tmp_path: Path) -> None:
    found, origin = residual.study(
        tmp_path / "runs", SMALL, lower=(1, 3), adjoint=(1, 4), seeds=(0,), console=quiet()
    )
    residual.write(found, origin, tmp_path / "out", console=quiet())
    record = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert [(run["K"], run["N"]) for run in record["runs"]] == [(1, 1), (1, 4), (3, 1), (3, 4)]
    lines = [Run(tmp_path / "runs" / "3-4-0").metrics(), record["runs"][-1]]
    assert lines[1]["error"] == pytest.approx(sum(m["hypergradient_error"] for m in lines[0]) / 2)
    assert record["line"]["cells"] == 4
    assert "| 3 | 4 |" in (tmp_path / "out" / "study.md").read_text(encoding="utf-8")
    with Image.open(tmp_path / "out" / "study.png") as image:
        assert min(image.size) > 400


def test_the_variance_of_a_mean_falls_as_the_law_says() -> None:
    draw = torch.Generator().manual_seed(0)
    found = 2 + torch.randn(4096, 3, generator=draw, dtype=torch.float64)
    # three coordinates of variance 1; a sum of n squares is off by sqrt(2 / n) of itself
    for batch in (1, 4, 16):
        slack = 4 * (2 * batch / (3 * len(found))) ** 0.5
        assert batch * batches.spread(found, batch) == pytest.approx(3, rel=slack)


def test_each_number_of_tasks_sees_as_many(tmp_path: Path) -> None:
    asked = SMALL.replace(steps=2, hypergradient_error=False)
    runs, origin = batches.study(
        tmp_path / "runs", asked, batches=(1, 2), seeds=(0,), tasks=4, console=quiet()
    )
    assert [(run.tasks, run.steps) for run in runs] == [(1, 4), (2, 2)]
    each = batches.hypergradients(Run(tmp_path / "runs" / "2-0"), 4)
    assert runs[1].gradient == pytest.approx(float(each.mean(0).square().sum()))
    assert runs[1].means == {"1": runs[1].variance, "2": pytest.approx(batches.spread(each, 2))}
    batches.write(runs, origin, tmp_path / "out", console=quiet())
    assert "| 2 | 2 |" in (tmp_path / "out" / "study.md").read_text(encoding="utf-8")


def test_the_study_can_be_made_on_cifar_fs() -> None:
    asked = named("residual-cifar-fs")
    shared = named("cifar-fs-5way-5shot")
    assert (asked.data, asked.train, asked.test) == (shared.data, shared.train, shared.test)
    assert asked.backbone == shared.backbone
    for steps in residual.K:
        for systems in residual.N:
            own = asked.replace(lower_steps=steps, adjoint_steps=systems).preset()
            found = numbers(own.method)
            assert (found.K, found.N, found.test_K) == (steps, systems, 200)
            assert (own.tasks_per_step, found.step_size) == (4, 0.05)


def test_what_is_planned_holds_and_what_is_needed_is_least() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(2)
    support, query = torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)
    task = planned.planned(support, labels, query, labels, l2=0.1)
    assert task.planned is not None
    assert task.planned <= planned.SHARE < task.published
    assert task.needed is not None
    assert task.needed <= task.K
    tighter = planned.planned(support, labels, query, labels, l2=0.1, share=1e-4)
    assert tighter.K > task.K
    assert tighter.N >= task.N
    assert tighter.planned is not None
    assert tighter.planned <= 1e-4
    # the plan is of this head's curvature, with the regulariser's share in it
    largest = torch.linalg.matrix_norm(support, 2) ** 2 / (2 * len(support)) + 0.1
    assert task.condition == pytest.approx(float(largest) / 0.1)


def test_plans_are_of_kept_runs(tmp_path: Path) -> None:
    asked = SMALL.replace(steps=1, hypergradient_error=False, l2=1.0)
    ensure(asked.replace(run=tmp_path / "ours"), console=quiet())
    planned.write([tmp_path / "ours"], tmp_path / "out", console=quiet())
    record = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    (run,) = record["runs"].values()
    assert len(run["tasks"]) == planned.TASKS
    rows = planned.table(record)
    assert rows.rows[0][0] == "glyphs, memory-reduced"
    assert (tmp_path / "out" / "plan.md").read_text(encoding="utf-8") == rows.markdown()
    ensure(asked.replace(run=tmp_path / "anil", method="anil", l2=None), console=quiet())
    with pytest.raises(RunError, match="no regularised softmax head"):
        planned.of_run(tmp_path / "anil")


def test_the_kept_plan_is_that_of_its_record() -> None:
    kept = Path(__file__).parents[2] / "results" / "plan"
    record = json.loads((kept / "plan.json").read_text(encoding="utf-8"))
    assert (kept / "plan.md").read_text(encoding="utf-8") == planned.table(record).markdown()


@pytest.mark.parametrize("study", ["residual", "residual-cifar-fs", "batches"])
def test_the_kept_tables_are_those_of_their_records(study: str) -> None:
    kept = Path(__file__).parents[2] / "results" / study
    record = json.loads((kept / "study.json").read_text(encoding="utf-8"))
    if study.startswith("residual"):
        rows = residual.table([residual.Point(**run) for run in record["runs"]], record)
    else:
        rows = batches.table([batches.Trained(**run) for run in record["runs"]], record)
    assert (kept / "study.md").read_text(encoding="utf-8") == rows.markdown()
