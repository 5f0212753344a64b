"""The page of results is that of the result files, and says what was not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

from experiments import page
from metalearn.data.published import DatasetName

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def test_the_page_is_todays() -> None:
    shown = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert shown == page.page(RESULTS), "run python -m experiments results"


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


def test_a_data_set_without_results_has_a_row_a_method_and_commands(tmp_path: Path) -> None:
    for part in page.DATA_SETS:
        found = page.rows(part, tmp_path)
        assert [row[0] for row in found.rows] == list(page.METHODS)
        assert all(row[1].startswith("not run here: ") for row in found.rows)
        assert part.command in found.title
    text = page.page(tmp_path)
    assert text.count("not run here: files needed") == 25
    for name in ("miniimagenet", "tieredimagenet"):
        assert f"metalearn prepare {name} --source FILES" in text


def test_each_data_set_to_prepare_is_on_the_page() -> None:
    named = {part.prepare.split(" ")[2] for part in page.DATA_SETS if part.prepare}
    assert named == set(get_args(DatasetName)) - {"folders"}
