"""The tables: accuracy (paired) and memory, from result files alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from metalearn.errors import RunError
from metalearn.evaluate import INTERVAL
from metalearn.report.collect import Finished, by_method
from metalearn.report.measured import Measured
from metalearn.report.paired import paired

MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A table as text.

    Attributes:
        title: one line.
        columns: their headings.
        rows: as many cells each.
        notes: lines below it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table(*self.columns, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"{self.title}\n\n{table}\n\n{notes}\n"


def protocol_line(runs: Sequence[Finished]) -> str:
    """What was asked, in one line."""
    protocol, config = runs[0].result.protocol, runs[0].result
    return (
        f"{protocol.data}, {protocol.way}-way {protocol.shot}-shot, {protocol.query} queries per "
        f"class, {protocol.episodes} {protocol.split} episodes (seed {protocol.episode_seed}), "
        f"{config.backbone}, normalisation {config.normalisation}"
    )


def percent(mean: float, half: float) -> str:
    """An accuracy or a difference with its interval."""
    around = "" if math.isinf(half) else f" ± {100 * half:.2f}"
    return f"{100 * mean:.2f}{around}"


def reaching(run: Finished, accuracy: float) -> float:
    """Seconds of training until a validation was at least this good; infinite if none was."""
    times = (m["seconds"] for m in run.metrics if m["validation"] >= accuracy)
    return float(next(times, math.inf))


def accuracy_table(runs: Sequence[Finished], *, reference: str | None = None) -> Rows:
    """Accuracy, paired difference, memory and time of each method.

    Args:
        runs: finished runs of one protocol.
        reference: the method that others are compared to; by default the first by name.

    Raises:
        RunError: the runs can't be compared.
    """
    methods = by_method(runs)
    first = reference or min(methods)
    if first not in methods:
        raise RunError(f"no run of {first} is here: there are {', '.join(methods)}.")
    worst = min(
        max(m["validation"] for run in own for m in run.metrics) for own in methods.values()
    )
    rows = []
    for method, own in sorted(methods.items(), key=lambda item: item[0] != first):
        accuracies = [run.result.accuracy for run in own]
        mean = sum(accuracies) / len(own)
        half = sum(run.result.interval for run in own) / len(own)
        apart = "–" if method == first else _difference(own, methods[first])
        reached = sorted(reaching(run, worst) for run in own)[len(own) // 2]
        rows.append(
            [
                method,
                own[0].result.variant,
                percent(mean, half),
                ", ".join(f"{100 * a:.2f}" for a in accuracies),
                apart,
                f"{own[0].result.step_bytes / MIB:.1f}",
                "never" if math.isinf(reached) else f"{reached:.0f}",
                str(own[0].result.certificate["failed"]) if own[0].result.certificate else "–",
            ]
        )
    return Rows(
        title=f"Accuracy (%): {protocol_line(runs)}",
        columns=[
            "method",
            "variant",
            "accuracy",
            "each seed",
            f"less {first}",
            "step (MiB)",
            f"seconds to {100 * worst:.1f} %",
            "failed",
        ],
        rows=rows,
        notes=[
            f"accuracy: mean of the seeds; interval of one seed's ({INTERVAL})",
            f"less {first}: on the same episodes; ± for these seeds (1.96 s / sqrt(n) over "
            "episodes), in brackets ± for other seeds (Student's t)",
            "step: peak live tensor bytes of one upper step",
            "seconds to: of training and validation, until a validation reaches the best of the "
            "method whose best is worst; median of the seeds",
            "failed: tasks of training whose lower level or adjoint failed, first seed",
        ],
    )


def memory_table(measured: Measured) -> Rows:
    """Peak of one upper step for each K, and what each method needs of the most needy's.

    The slope is in K: the difference between the largest K and the smallest, a step.
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
