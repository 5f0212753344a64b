"""`metalearn figure` and `metalearn table`: figures and tables of result files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from metalearn.config.commands import (
    AccuracyConfig,
    AdaptationConfig,
    EpisodeConfig,
    FigureConfig,
    HypergradientConfig,
    MemoryConfig,
    TableConfig,
)
from metalearn.errors import ConfigError, RunError
from metalearn.files import write_atomically
from metalearn.report.collect import collect
from metalearn.report.figures import (
    accuracy_figure,
    adaptation_figure,
    hypergradient_figure,
    memory_figure,
)
from metalearn.report.tables import Rows, accuracy_table, hypergradient_table, memory_table
from metalearn.runs.records import load_measured, load_retested


def figure(config: FigureConfig, *, console: Console) -> None:
    """Draw the figure and write it as a PNG.

    Raises:
        MetalearnError: there is nothing to draw, or the file can't be written.
    """
    what = config.what
    path = what.out or Path(type(what).__name__.removesuffix("Config").lower() + ".png")
    if path.suffix != ".png":
        raise ConfigError(f"out was given as {path}: a figure is a PNG, so end it in .png.")
    with _written(path):
        match what:
            case AccuracyConfig():
                accuracy_figure(collect(what.runs), path)
            case MemoryConfig():
                memory_figure(load_measured(what.measured), path)
            case HypergradientConfig():
                hypergradient_figure(collect(what.runs), path)
            case AdaptationConfig():
                adaptation_figure([load_retested(file) for file in what.tested], path)
            case EpisodeConfig():
                from metalearn.report.episode import episode_figure  # runs the network

                episode_figure(what.run, path, index=what.index, backbone=what.backbone)
    console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def table(config: TableConfig, *, console: Console) -> None:
    """Print the table, and write it if a file is named.

    Raises:
        MetalearnError: there is nothing to tabulate, or the file can't be written.
    """
    what = config.what
    match what:
        case AccuracyConfig():
            rows = accuracy_table(collect(what.runs), reference=what.reference)
        case MemoryConfig():
            rows = memory_table(load_measured(what.measured))
        case HypergradientConfig():
            rows = hypergradient_table(collect(what.runs))
    rows.show(console)
    if what.out is not None:
        write(rows, what.out)


def write(rows: Rows, path: Path) -> None:
    """Write a table as Markdown.

    Raises:
        RunError: the file can't be written.
    """
    with _written(path):
        write_atomically(path, rows.markdown().encode())


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Name the file in the error if it can't be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} can't be written ({error}): give another --out.") from error
