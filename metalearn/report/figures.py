"""The figures: accuracy against steps and seconds, memory against K; from result files alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metalearn.files import write_atomically
from metalearn.report.collect import Finished, by_method
from metalearn.report.measured import Measured
from metalearn.report.tables import MIB, protocol_line


def accuracy_figure(runs: Sequence[Finished], path: Path) -> None:
    """Validation accuracy of each method against upper steps and against seconds, as a PNG.

    Lines are means over the seeds, shades their range; seconds are means, too.

    Raises:
        RunError: the runs can't be compared.
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for color, (method, own) in zip(_colors(), by_method(runs).items(), strict=False):
        count = min(len(run.metrics) for run in own)
        series = {
            name: np.array([[m[name] for m in run.metrics[:count]] for run in own])
            for name in ("step", "seconds", "validation")
        }
        mean = 100 * series["validation"].mean(0)
        low, high = 100 * series["validation"].min(0), 100 * series["validation"].max(0)
        label = f"{method} ({len(own)} {'seed' if len(own) == 1 else 'seeds'})"
        for axes, x in ((left, "step"), (right, "seconds")):
            along = series[x].mean(0)
            axes.plot(along, mean, color=color, label=label, marker=".", markersize=4)
            axes.fill_between(along, low, high, color=color, alpha=0.2, linewidth=0)
    left.set(xlabel="upper steps", ylabel="validation accuracy (%)")
    right.set(xlabel="seconds of training and validation")
    left.legend(loc="lower right", fontsize="small")
    config = runs[0].config
    _finish(
        figure,
        (left, right),
        f"{protocol_line(runs)}\nvalidation: {config.validation_episodes} episodes; "
        "line: mean of the seeds, shade: their range",
        path,
    )


def memory_figure(measured: Measured, path: Path) -> None:
    """Peak live tensor bytes of one upper step against K, for each method, as a PNG.

    Raises:
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for color, (method, peaks) in zip(_colors(), measured.peaks.items(), strict=False):
        steps = [int(k) for k in peaks]
        axes.plot(steps, [b / MIB for b in peaks.values()], color=color, marker="o", label=method)
    axes.set(xlabel="K, lower steps", ylabel=f"peak of one upper step (MiB, {measured.measure})")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    _finish(figure, (axes,), measured.protocol, path)


def _colors() -> itertools.cycle[str]:
    return itertools.cycle([f"C{index}" for index in range(10)])


def _finish(figure: Figure, panels: Sequence[Axes], title: str, path: Path) -> None:
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())
