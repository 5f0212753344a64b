"""The page of results is that of the result files, and says what was not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

from experiments import page
from experiments.work import forward, work
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.data.published import DatasetName

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def test_the_page_is_todays() -> None:
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert shown == page.page(RESULTS), "run python -m experiments results"


def test_the_page_shows_the_figures_of_the_results() -> None:
    there = page.pictures(RESULTS)
    folder = ROOT / "docs" / page.FOLDER
    assert {path.name for path in folder.iterdir()} == set(there)
    for name, path in there.items():
        assert (folder / name).read_bytes() == path.read_bytes(), (
            "run python -m experiments results"
        )
    shown = page.page(RESULTS)
    for figure in page.FIGURES:
        assert f"({page.FOLDER}/cifar-fs-5way-5shot-{figure})" in shown


def test_another_number_in_a_result_file_is_another_page(tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(RESULTS / "omniglot-20way-1shot", copied / "omniglot-20way-1shot")
    for name in ("result.json", "5way-1shot.json"):
        before = page.page(copied)
        path = copied / "omniglot-20way-1shot" / name
        record = json.loads(path.read_text(encoding="utf-8"))
        (record["points"][0] if "points" in record else record)["accuracy"] -= 0.01
        path.write_text(json.dumps(record), encoding="utf-8")
        assert page.page(copied) != before


def test_another_accuracy_on_another_domain_is_another_page(tmp_path: Path) -> None:
    path = tmp_path / page.OTHER_DOMAINS
    path.parent.mkdir()
    record = json.loads((RESULTS / page.OTHER_DOMAINS).read_text(encoding="utf-8"))
    without = page.page(tmp_path)
    found = []
    for shift in (0, 0.01):
        record["rows"][0]["accuracy"] -= shift
        path.write_text(json.dumps(record), encoding="utf-8")
        found.append(page.page(tmp_path))
    assert without in found[0]  # a section more
    assert found[0] != found[1]


def test_a_data_set_without_results_names_all_methods_and_commands(tmp_path: Path) -> None:
    for part in page.DATA_SETS:
        (found,) = page.tables(part, tmp_path)
        (row,) = found.rows
        assert row[0].split(", ") == list(page.METHODS)
        assert row[1].startswith("not run here: ")
        assert part.command in found.title
    text = page.page(tmp_path)
    needed = [part.needed for part in page.DATA_SETS]
    assert text.count("not run here: files needed") == needed.count("files") > 0
    for name in ("miniimagenet", "tieredimagenet"):
        assert f"metalearn prepare {name} --source FILES" in text


def test_a_comparison_has_a_table_a_budget_and_names_what_was_not_run(tmp_path: Path) -> None:
    (part,) = (each for each in page.DATA_SETS if each.title == "CIFAR-FS")
    for name in ("cifar-fs-5way-5shot", "cifar-fs-5way-1shot-200steps"):
        for run in ("anil-0", "itd-bio-1"):
            shutil.copytree(RESULTS / "cifar-fs-5way-5shot" / run, tmp_path / name / run)
    short, whole = page.tables(part, tmp_path)
    assert "800 steps of 4 tasks" in whole.title
    assert whole.title.endswith("`python -m experiments cifar-fs`")
    assert short.title.endswith("`python -m experiments cifar-fs --shot 1 --steps 200`")
    *ran, last = whole.rows
    assert [row[0] for row in ran] == ["anil", "itd-bio"]
    assert last[1].startswith("not run here: ")
    assert set(last[0].split(", ")) == set(page.METHODS) - {"anil", "itd-bio"}
    assert whole.notes == [part.partial]


def test_each_data_set_to_prepare_is_on_the_page() -> None:
    named = {part.prepare.split(" ")[2] for part in page.DATA_SETS if part.prepare}
    assert named == set(get_args(DatasetName)) - {"folders"}


def test_work_is_that_of_the_passes() -> None:
    # four 3 x 3 convolutions to 32 channels, on 32, 16, 8 and 4 pixels; two operations a product
    image = 2 * 9 * 32 * (3 * 32**2 + 32 * (16**2 + 8**2 + 4**2))
    settings = TrainConfig().replace(data="cifar-fs", backbone="conv4", filters=32)
    assert forward(settings, "cifar-fs") == image
    assert forward(settings, "cifar-fs at 64 pixels") == 4 * image
    shape = EpisodeShape(way=5, shot=5, query=15)
    shaped = settings.replace(train=shape, steps=7, tasks_per_step=2, method="protonet")
    assert work(shaped, "cifar-fs") == 3 * image * 7 * 2 * 100
    five = shaped.replace(method="maml", lower_steps=5)  # the support in each, the queries once
    assert work(five, "cifar-fs") == 3 * image * 7 * 2 * (5 * 25 + 75)
    conjugate = shaped.replace(method="imaml", lower_steps=5, adjoint_steps=3)
    assert work(conjugate, "cifar-fs") == 3 * image * 7 * 2 * ((5 + 3) * 25 + 75)
    apart = shaped.replace(method="reptile", lower_steps=5)  # there is no upper loss
    assert work(apart, "cifar-fs") == 3 * image * 7 * 2 * 5 * 25
