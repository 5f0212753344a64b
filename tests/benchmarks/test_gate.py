"""The gate is open for the code as it is, and closes for each regression it is there for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.figures import SMALL, Figure, counted, generic
from benchmarks.gate import MARGINS, load, moved, table
from benchmarks.imports import ROOT, modules
from hypergrad import Implicit, Unrolled
from metalearn.methods import LinearHeads, Model
from metalearn.tasks.episodes import Episodes
from verification.subjects.planting import SourceBug, planted

NETWORKS = ("vectors of a first hypergradient", "vectors of a hypergradient")


@pytest.fixture(scope="module")
def honest() -> dict[str, Figure]:
    return counted(["memory-reduced"])


@pytest.fixture(scope="module")
def before() -> dict[str, Figure]:
    return generic()


def test_counts_are_those_that_are_recorded(honest: dict[str, Figure]) -> None:
    baseline = {name: figure for name, figure in load().items() if name in honest}
    assert len(baseline) == len(honest)
    assert [move for move in moved(baseline, honest) if move.fails] == []
    assert honest["memory-reduced: peak bytes that a lower step adds"].value == 0
    assert honest["memory-reduced: passes of the backbone at K = 6"].value == 1


def rose(honest: dict[str, Figure], now: dict[str, Figure]) -> set[str]:
    moves = moved(honest, now)
    assert table(moves).row_count == len(moves)
    return {move.name.partition(": ")[2] for move in moves if move.verdict == "rose"}


def test_a_graph_that_is_kept_alive_and_features_that_are_recomputed(
    honest: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two regressions at once, for one count: each moves figures that the other leaves."""
    through, alive = Implicit.minimise, []

    def minimise(self: Implicit, lower: Any, theta: Any, phi: Any, by: Any, watch: Any) -> Any:
        alive.append(Unrolled().minimise(lower, theta, phi, by, watch))
        return through(self, lower, theta, phi, by, watch)

    monkeypatch.setattr(Implicit, "minimise", minimise)
    features = Model.features

    def twice(self: Model, images: Tensor, support: int) -> Tensor:
        with torch.no_grad():
            features(self, images, support)
        return features(self, images, support)

    monkeypatch.setattr(Model, "features", twice)
    found = rose(honest, counted(["memory-reduced"]))
    assert {"peak bytes that a lower step adds", "saved bytes that a lower step adds"} <= found
    assert {"passes of the backbone at K = 6", "convolutions called at K = 6"} <= found


def test_a_loop_over_tasks(honest: dict[str, Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    loss = LinearHeads.loss

    def looped(self: LinearHeads, model: Model, episodes: Episodes, *, watch: Any) -> Tensor:
        each = [loss(self, model, one, watch=watch) for one in episodes.split(1)]
        return torch.stack(each).mean()

    monkeypatch.setattr(LinearHeads, "loss", looped)
    found = rose(honest, counted(["memory-reduced"]))
    assert {"operations at K = 6", "Hessian products at K = 6"} <= found
    assert "passes of the backbone at K = 6" not in found  # no more work, only more calls


@pytest.mark.parametrize(
    ("module", "old", "new", "figures"),
    [
        (
            "linear.cg_single",
            "ap = product(p)",
            "ap = (product(p) + product(p)) / 2",
            {
                "Hessian products of a step",
                "operations of a step",
                "bytes alive at a product",
                *NETWORKS,
            },
        ),
        (
            "implicit.pullback",
            "    check_same_kind(theta, phi)\n    theta_leaves",
            "    for _ in range(4):\n        check_same_kind(theta, phi)\n    theta_leaves",
            {"Python frames"},
        ),
        (
            "implicit.linearise",
            "self._crossed = vector, vector._version, parts[count:]",
            "pass",
            {"calls of autograd"},
        ),
        (
            "linear.cholesky",
            "return vectorised(column if batch else apply, units)",
            "raise ValueError",
            {"operations", "Python frames", "calls of autograd"},
        ),
        (
            "linear.cg_single",
            "        del ap  # before the next product, at which memory peaks\n",
            "",
            {"bytes alive at a product", *NETWORKS},
        ),
        (
            "implicit.pullback",
            "        del point  # and the graph, before the probe makes others\n",
            "",
            {"vectors of a first hypergradient"},
        ),
        ("implicit.pullback", "        with point.aside():\n", "        if True:\n", {*NETWORKS}),
    ],
    ids=[
        "a product more in each step",
        "inputs checked again",
        "a pass of its own for J v",
        "columns one by one",
        "a vector kept over a product",
        "a graph kept over the probe",
        "a gradient kept over the solve",
    ],
)
def test_one_more_in_a_hypergradient(
    module: str, old: str, new: str, figures: set[str], before: dict[str, Figure]
) -> None:
    with planted(SourceBug(f"hypergrad.{module}", old, new)):
        after = generic()
    assert figures <= rose(before, after) <= figures | {"operations"}


def test_a_module_more_at_import(tmp_path: Path) -> None:
    for package in ("hypergrad", "metalearn"):
        shutil.copytree(ROOT / package, tmp_path / package)
    before = modules(tmp_path)
    assert before == tuple(
        load()[f"import {package}: modules"].value for package in ("hypergrad", "metalearn")
    )
    for package, name in (("hypergrad", "lower.lbfgs"), ("metalearn", "errors")):
        with (tmp_path / package / "__init__.py").open("a") as face:
            face.write(f"\nimport {package}.{name}\n")
    after = modules(tmp_path)
    assert after[0] > before[0]
    assert after[1] > before[1]


@pytest.mark.parametrize("kind", ["bytes", "operations", "time"])
def test_a_margin_is_where_it_says(kind: Any) -> None:
    margin = MARGINS[kind]

    def verdicts(value: float) -> list[str]:
        moves = moved({"x": Figure(1000.0, kind)}, {"x": Figure(value, kind)})
        return [move.verdict for move in moves]

    assert verdicts(1000 * (1 + margin) - 1) == verdicts(1000 * (1 - margin) + 1) == []
    assert verdicts(1000 * (1 + margin) + 1) == verdicts(float("nan")) == ["rose"]
    assert verdicts(1000 * (1 - margin) - 1) == ["fell"]


@pytest.mark.parametrize(
    ("change", "verdict", "fails"),
    [
        (lambda figures: figures | {"other": Figure(1, "count")}, "new", True),
        (lambda figures: {}, "gone", True),
        (lambda figures: {"x": Figure(0, "count")}, "fell", False),
    ],
)
def test_what_else_moves(
    change: Callable[[dict[str, Figure]], dict[str, Figure]], verdict: str, fails: bool
) -> None:
    baseline = {"x": Figure(3, "count")}
    (move,) = moved(baseline, change(baseline))
    assert (move.verdict, move.fails) == (verdict, fails)


def test_a_figure_that_is_renamed_closes_the_gate() -> None:
    figure = Figure(3, "count")
    moves = moved({"x": figure}, {"y": figure})
    assert {(move.name, move.verdict, move.fails) for move in moves} == {
        ("x", "gone", True),
        ("y", "new", True),
    }


def test_the_baseline_has_a_slope_of_zero_for_whatever_is_differentiated_implicitly() -> None:
    baseline = load()
    for name in ("memory-reduced", "imaml", "fomaml", "reptile"):
        # Each of Reptile's steps is checked in time, and a check that waits keeps a flag for each
        # task and one for all (`hypergrad.deferred`).
        flags = SMALL.tasks + 1 if name == "reptile" else 0
        assert baseline[f"{name}: peak bytes that a lower step adds"].value == flags
        assert baseline[f"{name}: saved bytes that a lower step adds"].value == 0
