"""Tables of accuracy, hypergradient error and memory, made from result files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, median_low
from typing import Final

from rich.console import Console
from rich.table import Table

from metalearn.config.groups import normalised
from metalearn.errors import RunError
from metalearn.methods.overrides import passes
from metalearn.report.collect import ERROR, Finished, by_method, with_error
from metalearn.report.paired import paired
from metalearn.runs.records import Measured
from metalearn.testing.accuracy import INTERVAL

MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Table of text.

    Attributes:
        title: Title, one line.
        columns: Headings of the columns.
        rows: Cells, one for each column.
        notes: Lines below the table.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            # a name that is cut short is another's, too
            table.add_column(column, no_wrap=number == 0, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        if not console.is_terminal:  # in a file nothing has to fit
            wide = console.measure(table, options=console.options.update(width=10_000)).maximum
            console = Console(file=console.file, width=wide, color_system=None)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """Table as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"{self.title}\n\n{table}\n\n{notes}\n"


def protocol_line(runs: Sequence[Finished]) -> str:
    """Test episodes and backbone, in one line."""
    protocol, config = runs[0].result.protocol, runs[0].result
    return (
        f"{protocol.data}, {protocol.shape}, "
        f"{protocol.episodes} {protocol.split} episodes (seed {protocol.episode_seed}), "
        f"{config.backbone}, normalisation {config.normalisation}"
    )


def percent(mean: float, half: float) -> str:
    """Accuracy or difference with its interval, in percent."""
    around = "" if math.isinf(half) else f" ± {100 * half:.2f}"
    return f"{100 * mean:.2f}{around}"


def reaching(run: Finished, accuracy: float) -> float:
    """Seconds of training until a validation reached this accuracy; infinite if none did."""
    times = (m["seconds"] for m in run.metrics if m["validation"] >= accuracy)
    return float(next(times, math.inf))


def usual_best(own: Sequence[Finished]) -> float:
    """Best validation of a method's median seed, which at least half of its seeds reach."""
    bests: list[float] = [max(line["validation"] for line in run.metrics) for run in own]
    return median_low(bests)


def accuracy_table(runs: Sequence[Finished], *, reference: str | None = None) -> Rows:
    """Accuracy, paired difference, memory and time of each method.

    Args:
        runs: Finished runs that were tested on the same episodes.
        reference: Method that the others are compared to; by default the first by name.

    Raises:
        RunError: the runs can't be compared.
    """
    methods = by_method(runs)
    first = reference or min(methods)
    if first not in methods:
        raise RunError(f"no run of {first} is here: there are {', '.join(methods)}.")
    worst = min(map(usual_best, methods.values()))
    rows = []
    for method, own in sorted(methods.items(), key=lambda item: item[0] != first):
        accuracies = [run.result.accuracy for run in own]
        mean = sum(accuracies) / len(own)
        half = sum(run.result.interval for run in own) / len(own)
        apart = "–" if method == first else _difference(own, methods[first])
        taken = passes(own[0].config.preset().method)
        reached = sorted(reaching(run, worst) for run in own)[len(own) // 2]
        rows.append(
            [
                method,
                percent(mean, half),
                ", ".join(f"{100 * a:.2f}" for a in accuracies),
                apart,
                str(own[0].metrics[-1]["step"]),
                str(own[0].result.tasks_per_step),
                "–" if taken is None else str(taken),
                f"{own[0].result.step_bytes / MIB:.1f}",
                "never" if math.isinf(reached) else f"{reached:.0f}",
                str(own[0].result.certificate["failed"]) if own[0].result.certificate else "–",
            ]
        )
    return Rows(
        title=f"Accuracy (%): {protocol_line(runs)}",
        columns=[
            "method",
            "accuracy",
            "each seed",
            f"minus {first}",
            "steps",
            "tasks a step",
            "passes a step",
            "step (MiB)",
            f"seconds to {100 * worst:.1f} %",
            "failed",
        ],
        rows=rows,
        notes=[
            f"accuracy: mean over the seeds, ± the interval of one seed ({INTERVAL}); "
            f"{normalised(runs[0].result.normalisation)}",
            f"minus {first}: difference on the same episodes; ± for these seeds (1.96 s / sqrt(n) "
            "over episodes), in brackets ± for other seeds (Student's t)",
            "steps: upper steps taken, first seed",
            "passes a step: passes of the backbone over each task, forward and back, that the "
            "method's upper step asks for; – if the method solves until it is done",
            "step: peak live tensor bytes of one upper step",
            f"seconds to {100 * worst:.1f} %: training and validation until a validation reaches "
            f"{100 * worst:.1f} %, the lowest best validation of these methods (median seed of "
            "each); median over the seeds",
            "failed: training tasks whose lower level or adjoint was not solved, first seed",
            *(f"{method}: {_variant(own[0])}" for method, own in sorted(methods.items())),
        ],
    )


def _variant(run: Finished) -> str:
    found = run.result
    return f"{found.variant}: {found.departures}" if found.departures else found.variant


def hypergradient_table(runs: Sequence[Finished]) -> Rows:
    """Distance of each method's hypergradient from the exact one, over training.

    Raises:
        RunError: no run has recorded it, or the runs can't be compared.
    """
    known = with_error(runs)
    rows = []
    for method, own in sorted(by_method(known).items()):
        errors = [[line[ERROR] for line in run.metrics] for run in own]
        every = [value for each in errors for value in each]
        cosines = [line["hypergradient_cosine"] for run in own for line in run.metrics]
        certificate = own[0].result.certificate
        left = [
            f"{certificate[level]['training']['median']:.1e}" if certificate else "–"
            for level in ("stationarity", "residual")
        ]
        rows.append(
            [
                method,
                f"{median(each[0] for each in errors):.1e}",
                f"{median(every):.1e}",
                f"{median(each[-1] for each in errors):.1e}",
                f"{max(every):.1e}",
                f"{median(cosines):.3f}",
                *left,
            ]
        )
    return Rows(
        title=f"Error of the hypergradient, |d − d*| / |d*|: {protocol_line(known)}",
        columns=["method", "first", "median", "last", "worst", "cosine", "lower", "adjoint"],
        rows=rows,
        notes=[
            "d: the method's hypergradient; d*: the exact one, with both levels solved in float64. "
            f"Measured at each validation on tasks that are never trained on "
            f"({known[0].config.train})",
            "first, last: at the first and the last validation, median over the seeds",
            "cosine: median of d'd* / (|d| |d*|)",
            "lower: median |dg/dphi| over training; adjoint: median relative residual of the "
            "adjoint system over training, – for methods without one; both of the first seed",
        ],
    )


def memory_table(measured: Measured) -> Rows:
    """Peak memory of one upper step for each K, by method.

    The last column is the slope in K between the smallest K and the largest.
    """
    steps = sorted({int(k) for peaks in measured.peaks.values() for k in peaks})
    rows = []
    for method, peaks in measured.peaks.items():
        own = {int(k): value for k, value in peaks.items()}
        low, high = min(own), max(own)
        slope = (own[high] - own[low]) / (high - low) if high > low else 0.0
        cells = [f"{own[k] / MIB:.1f}" if k in own else "–" for k in steps]
        rows.append([method, *cells, f"{slope / 1024:.1f}"])
    return Rows(
        title=f"Peak of one upper step (MiB, {measured.measure}): {measured.protocol}",
        columns=["method", *(f"K = {k}" for k in steps), "KiB a step"],
        rows=rows,
        notes=[
            f"commit {measured.commit}, torch {measured.versions.get('torch')}, {measured.device}"
        ],
    )


def _difference(own: Sequence[Finished], reference: Sequence[Finished]) -> str:
    found = paired(own, reference)
    spread = "" if math.isinf(found.spread) else f" (± {100 * found.spread:.2f})"
    return f"{100 * found.mean:+.2f} ± {100 * found.interval:.2f}{spread}"
