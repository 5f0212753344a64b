"""`metalearn figure`, `metalearn table`, `metalearn compare`: their settings and what they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from metalearn.cli.measure import load
from metalearn.cli.test import load_retested
from metalearn.config.train import MethodName, TrainConfig
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
from metalearn.runs.folder import CONFIG, Run
from metalearn.training.loop import train


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """Accuracy of finished runs: against steps and seconds (figure), or paired (table).

    Attributes:
        runs: the folder that holds them.
        out: the file to write: a PNG, or Markdown; a table is printed in any case.
        reference: the method that others are compared to; by default the first by name.
    """

    runs: Path
    out: Path | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Peak memory of one upper step against K.

    Attributes:
        measured: the file that `metalearn measure` wrote.
        out: the file to write: a PNG, or Markdown; a table is printed in any case.
    """

    measured: Path
    out: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HypergradientConfig:
    """How far hypergradients were from the exact ones, in runs with --hypergradient-error.

    Attributes:
        runs: the folder that holds them.
        out: the file to write: a PNG, or Markdown; a table is printed in any case.
    """

    runs: Path
    out: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationConfig:
    """Accuracy against K at test time, and the reliability diagram.

    Attributes:
        tested: the files that `metalearn test --lower-steps` wrote.
        out: the PNG to write.
    """

    tested: tuple[Path, ...]
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.tested:
            raise ConfigError("tested was given as none: give a file of `metalearn test`.")


_Accuracy = Annotated[AccuracyConfig, tyro.conf.subcommand("accuracy", prefix_name=False)]
_Memory = Annotated[MemoryConfig, tyro.conf.subcommand("memory", prefix_name=False)]
_Hypergradient = Annotated[
    HypergradientConfig, tyro.conf.subcommand("hypergradient", prefix_name=False)
]
_Adaptation = Annotated[AdaptationConfig, tyro.conf.subcommand("adaptation", prefix_name=False)]
_Table = _Accuracy | _Memory | _Hypergradient
_Figure = _Accuracy | _Memory | _Hypergradient | _Adaptation


@dataclass(frozen=True, slots=True)
class FigureConfig:
    """Draw a figure from result files.

    Attributes:
        what: accuracy, memory, hypergradient or adaptation.
    """

    what: Annotated[_Figure, tyro.conf.arg(name="")]


@dataclass(frozen=True, slots=True)
class TableConfig:
    """Print a table from result files.

    Attributes:
        what: accuracy, memory or hypergradient.
    """

    what: Annotated[_Table, tyro.conf.arg(name="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Run methods from the same seeds on the same episodes, and compare them in pairs.

    Finished runs in the folder are kept, stopped ones resumed.

    Attributes:
        out: folder for the runs and the table.
        methods: presets to run.
        seeds: of the initial weights and the training episodes.
        settings: of every run; run, method and seed are set by the above.
    """

    out: Path = Path("runs/compare")
    methods: tuple[MethodName, ...] = ("memory-reduced", "itd-bio", "anil", "maml-baseline")
    seeds: tuple[int, ...] = (0, 1, 2)
    settings: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds:
            raise ConfigError("methods and seeds were given as none: give at least one of each.")


def figure(config: FigureConfig, *, console: Console) -> None:
    """Draw it.

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
                memory_figure(load(what.measured), path)
            case HypergradientConfig():
                hypergradient_figure(collect(what.runs), path)
            case AdaptationConfig():
                adaptation_figure([load_retested(file) for file in what.tested], path)
    console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def table(config: TableConfig, *, console: Console) -> None:
    """Print it, and write it if asked to.

    Raises:
        MetalearnError: there is nothing to tabulate, or the file can't be written.
    """
    what = config.what
    match what:
        case AccuracyConfig():
            rows = accuracy_table(collect(what.runs), reference=what.reference)
        case MemoryConfig():
            rows = memory_table(load(what.measured))
        case HypergradientConfig():
            rows = hypergradient_table(collect(what.runs))
    rows.show(console)
    if what.out is not None:
        _write(rows, what.out)


def compare(config: CompareConfig, *, console: Console) -> None:
    """Run what is missing, then print the table of all.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same command goes on.
        hypergrad.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    if config.settings.dry_run:
        raise ConfigError("dry_run was given with compare: give it to `metalearn train`.")
    for seed in config.seeds:
        for method in config.methods:
            ensure(member(config.out, config.settings, method, seed), console=console)
    asked_for = {f"{method}-{seed}" for method in config.methods for seed in config.seeds}
    runs = [run for run in collect(config.out) if run.folder.name in asked_for]
    rows = accuracy_table(runs, reference=config.methods[0])
    rows.show(console)
    _write(rows, config.out / "accuracy.md")


def member(out: Path, settings: TrainConfig, method: MethodName, seed: int) -> TrainConfig:
    """The settings of a comparison's run of this method from this seed."""
    return dataclasses.replace(settings, run=out / f"{method}-{seed}", method=method, seed=seed)


def ensure(asked: TrainConfig, *, console: Console) -> None:
    """Train in the settings' folder, go on there, or leave what is finished as it is.

    Raises:
        MetalearnError: the run can't be made, or the folder holds one with other settings.
        Stopped: by a signal; the same call goes on.
        hypergrad.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    folder = asked.run
    if folder is None or not (folder / CONFIG).exists():
        train(asked, console=console)
        return
    run = Run(folder)
    if not run.config().answers(asked):
        raise RunError(f"{folder} has other settings: give --out a new folder.")
    if not run.finished:
        train(TrainConfig(resume=folder), console=console)


def _write(rows: Rows, path: Path) -> None:
    with _written(path):
        write_atomically(path, rows.markdown().encode())


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Refuse a file that can't be written, by its name."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} can't be written ({error}): give another --out.") from error
