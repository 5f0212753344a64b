"""Figures of accuracy, memory, hypergradient error and adaptation, from result files alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metalearn.errors import RunError
from metalearn.files import write_atomically
from metalearn.report.collect import ERROR, Finished, by_method, with_error
from metalearn.report.tables import MIB, protocol_line
from metalearn.runs.records import Measured, Retested


def accuracy_figure(runs: Sequence[Finished], path: Path) -> None:
    """Validation accuracy of each method against upper steps and against seconds, as a PNG.

    Lines are means over the seeds, shades their range (of a single seed, the 95 % interval of the
    validation episodes); seconds are means, too.

    Raises:
        RunError: the runs can't be compared.
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for color, own in zip(_colors(), by_method(runs).values(), strict=False):
        values = 100 * _series(own, "validation")
        low, high = values.min(0), values.max(0)
        if len(own) == 1:
            half = 100 * _series(own, "validation_interval")[0]
            low, high = values[0] - half, values[0] + half
        for axes, x in ((left, "step"), (right, "seconds")):
            along = _series(own, x).mean(0)
            axes.plot(along, values.mean(0), color=color, label=_label(own), marker=".", ms=4)
            axes.fill_between(along, low, high, color=color, alpha=0.2, linewidth=0)
    left.set(xlabel="upper steps", ylabel="validation accuracy (%)")
    right.set(xlabel="seconds of training and validation")
    _legend_below(figure, left)
    episodes = runs[0].config.evaluation.validation_episodes
    _finish(
        figure,
        (left, right),
        f"{protocol_line(runs)}\nvalidation: {episodes} episodes; line: mean of "
        "the seeds, shade: their range (of one seed: 95 % interval of its episodes)",
        path,
    )


def hypergradient_figure(runs: Sequence[Finished], path: Path) -> None:
    """The hypergradient's recorded error against upper steps, and the certificate, as a PNG.

    Raises:
        RunError: no run has recorded it, or the runs can't be compared.
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    methods = by_method(with_error(runs))
    for color, own in zip(_colors(), methods.values(), strict=False):
        along = _series(own, "step").mean(0)
        shown = ((left, ERROR, "-"), (right, "residual", "-"), (right, "stationarity", "--"))
        for axes, name, style in shown:
            if name not in own[0].metrics[0]:
                continue  # an unrolled lower level has no adjoint system
            values = _series(own, name)
            middle = np.exp(np.log(np.maximum(values, 1e-16)).mean(0))
            axes.plot(along, middle, style, color=color, label=_label(own), marker=".", ms=4)
            axes.fill_between(along, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
    left.axhline(1, color="0.5", linestyle=":", label="as wrong as no hypergradient")
    left.set(ylabel="true error |d − d*| / |d*|", title="against the exact hypergradient")
    right.set(
        ylabel="worst task since the last point",
        title="certificate: adjoint |b − Hv| / |b| (solid), lower |∂g/∂φ| (dashed)",
    )
    right.title.set_fontsize("medium")
    left.title.set_fontsize("medium")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_xlabel("upper steps")
    _legend_below(figure, left)
    _finish(
        figure,
        (left, right),
        f"{protocol_line(runs)}\nd on {next(iter(methods.values()))[0].result.tasks_per_step} "
        f"training tasks ({runs[0].config.train}) that are never trained on; line: geometric mean "
        "of the seeds, shade: their range",
        path,
    )


def adaptation_figure(tested: Sequence[Retested], path: Path) -> None:
    """Accuracy against the lower steps of testing, and the reliability diagram, as a PNG.

    Raises:
        RunError: the runs were tested on different episodes.
        OSError: the file can't be written.
    """
    protocols = {each.protocol for each in tested}
    if len(protocols) != 1:
        raise RunError("these files are of different episodes: draw those of one protocol.")
    protocol = tested[0].protocol
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    right.plot([0, 100], [0, 100], color="0.5", linestyle=":", label="as often right as stated")
    for color, each in zip(_colors(), tested, strict=False):
        steps = [point.lower_steps for point in each.points]
        mean = [100 * point.accuracy for point in each.points]
        half = [100 * point.interval for point in each.points]
        if None in steps:  # tested as trained: one level, whatever K
            left.axhline(mean[0], color=color, linestyle="--", label=f"{each.run}, as trained")
            left.axhspan(mean[0] - half[0], mean[0] + half[0], color=color, alpha=0.2, lw=0)
        else:
            known = [step for step in steps if step is not None]
            left.errorbar(known, mean, half, color=color, marker=".", capsize=2, label=each.run)
        last = each.points[-1]
        some = [n for n, count in enumerate(last.calibration.counts) if count]
        right.plot(
            [100 * last.calibration.confidence[n] for n in some],
            [100 * last.calibration.accuracy[n] for n in some],
            color=color,
            marker="o",
            ms=4,
            label=f"{each.run}, K = {last.lower_steps}: error {last.calibration.error:.3f}"
            if last.lower_steps is not None
            else f"{each.run}, as trained: error {last.calibration.error:.3f}",
        )
    left.set(xlabel="K, lower steps of testing", ylabel="accuracy (%), 95 % interval")
    right.set(xlabel="stated probability of the named class (%)", ylabel="right answers (%)")
    left.legend(loc="lower right", fontsize="small")
    right.legend(loc="upper left", fontsize="small")
    first = tested[0]
    _finish(
        figure,
        (left, right),
        f"{protocol.data}, {protocol.shape}, "
        f"{protocol.episodes} {protocol.split} episodes (seed {protocol.episode_seed}), "
        f"{first.backbone}, normalisation {first.normalisation}",
        path,
    )


def memory_figure(measured: Measured, path: Path) -> None:
    """Peak live tensor bytes of one upper step against K, for each method, as a PNG.

    Raises:
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shapes = itertools.cycle("osDv^<>*")
    for number, (method, peaks) in enumerate(measured.peaks.items()):
        color, shape = f"C{number % 10}", next(shapes)
        # the first drawn is the largest: points at one place stay apart
        size = 4 + 2 * (len(measured.peaks) - number)
        steps, values = [int(k) for k in peaks], np.array(list(peaks.values()))
        for axes, shown in ((left, values / MIB), (right, (values - values[0]) / 1024)):
            axes.plot(
                steps, shown, color=color, marker=shape, ms=size, mfc="none", lw=1, label=method
            )
    left.set(ylabel=f"peak of one upper step (MiB, {measured.measure})", yscale="log")
    right.set(ylabel="more than at the least K (KiB)")
    right.set_yscale("symlog", linthresh=1.0)
    # methods that differ by a thousandth are drawn as alike as they are
    every = [peak / MIB for peaks in measured.peaks.values() for peak in peaks.values()]
    left.set_ylim(min(every) / 2, 2 * max(every))
    right.set_ylim(-1, max(1, right.get_ylim()[1]))
    for axes in (left, right):
        axes.set_xlabel("K, lower steps")
        axes.set_xticks(steps)
        axes.tick_params(axis="x", labelsize="small")
    _legend_below(figure, left)
    _finish(figure, (left, right), measured.protocol, path)


def _legend_below(figure: Figure, panel: Axes) -> None:
    """One legend for all panels, below them."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(5, len(labels)), fontsize="small"
    )


def _series(own: Sequence[Finished], name: str) -> Float64[np.ndarray, "seeds validations"]:
    """Values that the runs of a method recorded, at each validation that all of them reached."""
    count = min(len(run.metrics) for run in own)
    return np.array([[line[name] for line in run.metrics[:count]] for run in own], np.float64)


def _label(own: Sequence[Finished]) -> str:
    return f"{own[0].result.method} ({len(own)} {'seed' if len(own) == 1 else 'seeds'})"


def _colors() -> Iterator[str]:
    return itertools.cycle([f"C{index}" for index in range(10)])


def _finish(figure: Figure, panels: Sequence[Axes], title: str, path: Path) -> None:
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())
