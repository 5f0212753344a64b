"""The digits with wrong labels: every adjoint runs, and its weights find some of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.digits import ADJOINTS, OUT, rows, run, summary


@pytest.mark.parametrize("name", ['CG(damping="auto", rtol=1e-3, max_steps=100)'])
def test_weights_of_the_automatic_damping_find_wrong_labels(name: str) -> None:
    # 2 of the 25 upper steps; without a derivative the area would be 0.5
    found = run(ADJOINTS[name], 0, steps=2)
    assert found.auc > 0.6
    assert set(found.statuses) <= {"DAMPED", "CONVERGED"}
    assert len(found.products) == 2
    assert found.warned <= 2
    assert summary([found])["auc"] == found.auc


def test_without_weights_nothing_is_found() -> None:
    found = run(None, 0, steps=1, epochs=1)
    assert (found.auc, found.warned, found.products) == (0.5, 0, [])


def test_the_table_of_the_guide_is_the_result_file() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "networks.md").read_text("utf-8")
    found = json.loads(OUT.read_text(encoding="utf-8"))
    lines = list(rows(found))
    assert set(found["adjoints"]) == set(ADJOINTS)
    assert all(line in page.splitlines() for line in lines)
    # what the page says of it: the picked damping is within half a point of the best of all
    best = max(one["accuracy"] for one in found["adjoints"].values())
    for name, one in found["adjoints"].items():
        if "auto" in name:
            assert one["accuracy"] > best - 0.005
            assert one["warnings"] <= 3
