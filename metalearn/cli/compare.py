"""`metalearn compare`: methods trained from the same seeds and compared in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console

from metalearn.cli.report import write
from metalearn.config.choices import BudgetKind, MethodName
from metalearn.config.commands import CompareConfig
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError, RunError
from metalearn.methods.presets import shared_normalisation
from metalearn.report.collect import collect
from metalearn.report.tables import accuracy_table
from metalearn.runs.folder import CONFIG, Run
from metalearn.training.loop import train

# Records of a run have room for all of its steps.
MOST_STEPS: Final = 100_000


def compare(config: CompareConfig, *, console: Console) -> None:
    """Run what is missing, then print the table of all.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same command goes on.
        hypergrad.errors.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    own = config.settings.run
    for name, given in (
        ("dry_run", own.dry_run),
        ("run", own.folder is not None),
        ("resume", own.resume is not None),
    ):
        if given:
            raise ConfigError(
                f"{name} was given with compare, which makes its runs in --out: give it to "
                "`metalearn train`."
            )
    settings = config.settings
    if settings.backbone.normalisation is None:
        settings = settings.replace(normalisation=shared_normalisation(config.methods))
    for seed in config.seeds:
        for method in config.methods:
            asked = member(config.out, settings, method, seed)
            ensure(within(config.budget, asked), console=console)
    asked_for = {f"{method}-{seed}" for method in config.methods for seed in config.seeds}
    runs = [run for run in collect(config.out) if run.folder.name in asked_for]
    rows = accuracy_table(runs, reference=config.methods[0])
    rows.show(console)
    write(rows, config.out / "accuracy.md")


def member(out: Path, settings: TrainConfig, method: MethodName, seed: int) -> TrainConfig:
    """The settings of a comparison's run of this method from this seed."""
    return settings.replace(run=out / f"{method}-{seed}", method=method, seed=seed)


def within(budget: tuple[BudgetKind, float] | None, asked: TrainConfig) -> TrainConfig:
    """The settings of a run that keeps to a budget.

    Raises:
        ConfigError: the budget is less than one upper step of the method, or can't be kept.
    """
    if budget is None:
        return asked
    kind, amount = budget
    if kind == "seconds":
        return asked.replace(seconds=amount, steps=MOST_STEPS)
    tasks, shape = asked.preset().tasks_per_step, asked.train
    images = tasks * shape.way * (shape.shot + shape.query)
    step = {"steps": 1, "tasks": tasks, "images": images}[kind]
    if amount < step:
        raise ConfigError(
            f"budget {amount:g} {kind} was given, but an upper step of {asked.method.name} takes "
            f"{step}: give more, or fewer --tasks-per-step."
        )
    return asked.replace(steps=int(amount // step))


def ensure(asked: TrainConfig, *, console: Console) -> None:
    """Train in the settings' folder, go on there, or leave what is finished as it is.

    Raises:
        MetalearnError: the run can't be made, or the folder holds one with other settings.
        Stopped: by a signal; the same call goes on.
        hypergrad.errors.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    folder = asked.run.folder
    if folder is None or not (folder / CONFIG).exists():
        train(asked, console=console)
        return
    run = Run(folder)
    if not run.config().answers(asked):
        raise RunError(f"{folder} has other settings: give --out a new folder.")
    if not run.finished:
        named = asked.backbone.name
        train(TrainConfig().replace(resume=folder, backbone=named), console=console)
