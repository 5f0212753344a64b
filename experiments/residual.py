"""Dependence of accuracy on the error of the hypergradient: a grid of K and N from several seeds.

Each run trains by Algorithm 1 with K lower steps and N steps of conjugate gradients, and measures
how far its hypergradient is from the exact one (`metalearn.training.reference`) at each validation.
All are tested by the same lower solver.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from metalearn.cli.compare import ensure
from metalearn.config.train import TrainConfig
from metalearn.files import write_atomically, write_json
from metalearn.report.tables import Rows
from metalearn.runs.folder import Run

K: Final = (1, 5, 20, 100)
N: Final = (1, 20)
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run.

    Attributes:
        K: lower steps of training.
        N: steps of conjugate gradients.
        seed: seed of weights and training episodes.
        error: |d - d*| / |d*|, median over the validations.
        cosine: d'd* / (|d| |d*|), median over the validations.
        residual: relative residual of the adjoint system, median over training.
        stationarity: |dg/dphi|, median over training.
        accuracy: accuracy of the test.
        interval: half the width of its 95 % interval over the test's episodes.
    """

    K: int
    N: int
    seed: int
    error: float
    cosine: float
    residual: float
    stationarity: float
    accuracy: float
    interval: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Least squares of accuracy on log10 of the error, over the means of the grid's cells.

    Attributes:
        slope: accuracy a decade of error.
        half: half the width of the slope's 95 % interval (Student's t).
        intercept: accuracy at error 1.
        explained: share of the cells' variance that the line explains (R squared).
        cells: number of cells.
        centre: mean of log10 of the error.
        width: sum of squared distances from it.
    """

    slope: float
    half: float
    intercept: float
    explained: float
    cells: int
    centre: float
    width: float

    def height(self, exponent: float) -> tuple[float, float]:
        """Accuracy on the line, and half the width of its 95 % interval there."""
        # half = t s / sqrt(width), s the residuals' standard deviation
        apart = math.sqrt(self.width / self.cells + (exponent - self.centre) ** 2)
        return self.intercept + self.slope * exponent, self.half * apart


def study(
    folder: Path,
    asked: TrainConfig,
    *,
    lower: Sequence[int] = K,
    adjoint: Sequence[int] = N,
    seeds: Sequence[int] = SEEDS,
    console: Console,
) -> tuple[list[Point], dict[str, Any]]:
    """Train what is missing of the grid; finished runs are kept.

    Returns:
        The runs, and what their results say of code, versions and data.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same call goes on.
    """
    points, commits = [], dict[str, None]()
    for seed, steps, systems in itertools.product(seeds, lower, adjoint):
        run = folder / f"{steps}-{systems}-{seed}"
        own = asked.replace(run=run, lower_steps=steps, adjoint_steps=systems, seed=seed)
        ensure(own, console=console)
        result, metrics = Run(run).result(), Run(run).metrics()
        certificate = result.certificate
        assert certificate is not None  # Algorithm 1 has one
        points.append(
            Point(
                K=steps,
                N=systems,
                seed=seed,
                error=median(line["hypergradient_error"] for line in metrics),
                cosine=median(line["hypergradient_cosine"] for line in metrics),
                residual=certificate["residual"]["training"]["median"],
                stationarity=certificate["stationarity"]["training"]["median"],
                accuracy=result.accuracy,
                interval=result.interval,
            )
        )
        commits[result.commit] = None
    origin = {
        "protocol": dataclasses.asdict(result.protocol),
        "train": str(asked.train),
        "backbone": result.backbone,
        "steps": asked.optimisation.steps,
        "tasks_per_step": result.tasks_per_step,
        "learning_rate": result.learning_rate,
        "test_lower_steps": result.test_K,
        "commit": ", then ".join(commits),
        "dirty": result.dirty,
        "versions": result.versions,
        "device": result.device,
    }
    return points, origin


def cells(points: Sequence[Point]) -> dict[tuple[int, int], list[Point]]:
    """The runs of each (K, N)."""
    found: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        found.setdefault((point.K, point.N), []).append(point)
    return found


def regression(points: Sequence[Point]) -> Line:
    """The line through the cells; at least three of them."""
    means = [
        (mean(math.log10(p.error) for p in own), mean(p.accuracy for p in own))
        for own in cells(points).values()
    ]
    x, y = (np.array(column) for column in zip(*means, strict=True))
    apart = x - x.mean()
    width = float(apart @ apart)
    slope = float(apart @ y) / width
    left = y - y.mean() - slope * apart
    total = float((y - y.mean()) @ (y - y.mean()))
    quantile = float(stats.t.ppf(0.975, len(x) - 2))
    return Line(
        slope=slope,
        half=quantile * math.sqrt(float(left @ left) / (len(x) - 2) / width),
        intercept=float(y.mean()) - slope * float(x.mean()),
        explained=1 - float(left @ left) / total if total > 0 else 0.0,
        cells=len(x),
        centre=float(x.mean()),
        width=width,
    )


def table(points: Sequence[Point], origin: dict[str, Any]) -> Rows:
    """The cells, nearest to the exact hypergradient first."""
    rows = []
    for (steps, systems), own in sorted(
        cells(points).items(), key=lambda cell: median(p.error for p in cell[1])
    ):
        accuracies = [100 * p.accuracy for p in own]
        rows.append(
            [
                str(steps),
                str(systems),
                f"{median(p.error for p in own):.2g}",
                f"{median(p.cosine for p in own):.2f}",
                f"{median(p.stationarity for p in own):.2g}",
                f"{median(p.residual for p in own):.2g}",
                f"{mean(accuracies):.2f}",
                ", ".join(f"{each:.2f}" for each in accuracies),
            ]
        )
    line, protocol = regression(points), origin["protocol"]
    return Rows(
        title=(
            f"Accuracy (%) and error of the hypergradient: {protocol['data']}, "
            f"{protocol['way']}-way {protocol['shot']}-shot, {protocol['episodes']} test episodes, "
            f"{origin['backbone']}, {origin['steps']} steps of {origin['tasks_per_step']} tasks"
        ),
        columns=["K", "N", "error", "cosine", "lower", "adjoint", "accuracy", "each seed"],
        rows=rows,
        notes=[
            "error, cosine: of the hypergradient against the exact one, medians over validations "
            "and seeds; lower: |dg/dphi|; adjoint: relative residual, medians over training",
            f"tested by {origin['test_lower_steps']} lower steps, whatever K was in training",
            f"least squares over {line.cells} cells: {100 * line.slope:.2f} ± "
            f"{100 * line.half:.2f} points a decade of error, which explains "
            f"{100 * line.explained:.0f} % of the cells' variance",
            f"commit {origin['commit']}, torch {origin['versions']['torch']}, {origin['device']}",
        ],
    )


def figure(points: Sequence[Point], path: Path, *, title: str) -> None:
    """Accuracy against the error, with the line and its 95 % band, as a PNG."""
    line = regression(points)
    drawn = Figure(figsize=(7.5, 5), layout="constrained")
    axes = drawn.subplots()
    steps = sorted({p.K for p in points})
    systems = sorted({p.N for p in points})
    grid = cells(points)
    for at, marker in zip(systems, itertools.cycle("osD^v"), strict=False):
        for number, each in enumerate(steps):
            own = grid[each, at]
            axes.scatter(
                [p.error for p in own],
                [100 * p.accuracy for p in own],
                color=f"C{number}",
                marker=marker,
                s=28,
                label=f"K = {each}" if at == systems[0] else None,
            )
    for at, marker in zip(systems, itertools.cycle("osD^v"), strict=False):
        axes.scatter([], [], color="0.4", marker=marker, s=28, label=f"N = {at}")
    logs = [mean(math.log10(p.error) for p in own) for own in grid.values()]
    along = np.linspace(min(logs), max(logs), 50)
    middle, half = np.array([line.height(float(each)) for each in along]).T
    axes.plot(10**along, 100 * middle, color="0.2", lw=1)
    axes.fill_between(
        10**along, 100 * (middle - half), 100 * (middle + half), color="0.5", alpha=0.2, lw=0
    )
    axes.axvline(1, color="0.5", linestyle=":", lw=1)
    axes.set_xscale("log")
    axes.set(
        xlabel="error of the hypergradient, |d − d*| / |d*|   (dotted: as wrong as none at all)",
        ylabel="test accuracy (%)",
    )
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize="small")
    axes.set_title(
        f"{title}\n{100 * line.slope:.2f} ± {100 * line.half:.2f} points a decade of error "
        f"(line and 95 % band: least squares over {line.cells} cells)",
        fontsize="small",
    )
    picture = io.BytesIO()
    drawn.savefig(picture, format="png", dpi=130)
    write_atomically(path, picture.getvalue())


def write(points: Sequence[Point], origin: dict[str, Any], out: Path, *, console: Console) -> None:
    """The record, the table and the figure."""
    out.mkdir(parents=True, exist_ok=True)
    record = {
        **origin,
        "line": dataclasses.asdict(regression(points)),
        "runs": [dataclasses.asdict(point) for point in points],
    }
    write_json(out / "study.json", record)
    draw(out, console=console)


def draw(out: Path, *, console: Console) -> None:
    """Table and figure from the record alone."""
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    points = [Point(**run) for run in record["runs"]]
    rows = table(points, record)
    rows.show(console)
    write_atomically(out / "study.md", rows.markdown().encode())
    figure(points, out / "study.png", title=rows.title.split(": ", 1)[1])
