"""Settings of the commands: frozen, and refused when they can't work."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from metalearn.backbones import Normalisation
from metalearn.errors import ConfigError
from metalearn.learner import (
    PAPER_ADJOINT_STEPS,
    PAPER_STEP_SIZE,
    PAPER_STEPS,
    Lower,
    Preset,
    exact,
    paper,
)
from metalearn.schema import read
from metalearn.trackers import TrackerName

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} was given as {value!r}: it is one of {', '.join(allowed)}.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} was given as {value}: it must be at least {least}.")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} was given as {value}: it must be positive and finite.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What one episode asks.

    Attributes:
        way: classes to tell apart.
        shot: labelled (support) images of each class.
        query: images of each class to answer for.
    """

    way: int = 5
    shot: int = 1
    query: int = 5

    def __post_init__(self) -> None:
        _at_least("way", self.way, 2)
        _at_least("shot", self.shot, 1)
        _at_least("query", self.query, 1)

    def __str__(self) -> str:
        return f"{self.way}-way {self.shot}-shot, {self.query} queries per class"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train a few-shot learner on the built-in glyphs, then test it.

    Attributes:
        run: folder for the results, new or empty; by default runs/glyphs-PRESET-TIME.
        resume: folder of a stopped run to go on with, under its own settings.
        preset: exact: damped Newton and the adjoint to round-off; paper: K gradient steps, N CG
            steps, as published.
        lower_steps: K, for preset paper only (there 20 by default).
        step_size: of the K steps, for preset paper only (there 0.05 by default).
        adjoint_steps: N, for preset paper only (there 20 by default).
        l2: the head's regulariser, positive.
        filters: channels of each of Conv4's blocks.
        normalisation: transductive: by each task's own batch, support and query apart; group: each
            image by itself.
        train: training episodes.
        test: validation and test episodes.
        tasks_per_step: B, tasks of one upper step.
        steps: upper steps.
        learning_rate: Adam's at the start; it falls to 0 along a cosine.
        validate_every: upper steps between validations.
        checkpoint_every: upper steps between checkpoints, from which a stopped run is resumed.
        patience: validations without a new best after which training ends; by default never.
        validation_episodes: episodes of one validation.
        test_episodes: episodes of the final test.
        seed: of the initial weights and the training episodes; validation and test episodes are the
            same in all runs.
        device: auto takes CUDA where there is one.
        threads: CPU threads; part of what a result can be reproduced with.
        tracker: where scalars go to be looked at; wandb must be installed.
        dry_run: say what would be done and what memory it would take, and do nothing else.
    """

    run: Path | None = None
    resume: Path | None = None
    preset: Preset = "exact"
    lower_steps: int | None = None
    step_size: float | None = None
    adjoint_steps: int | None = None
    l2: float = 0.01
    filters: int = 32
    normalisation: Normalisation = "transductive"
    train: Protocol = Protocol(way=20, shot=1, query=2)
    test: Protocol = Protocol()
    tasks_per_step: int = 4
    steps: int = 800
    learning_rate: float = 4e-3
    validate_every: int = 100
    checkpoint_every: int = 100
    patience: int | None = None
    validation_episodes: int = 200
    test_episodes: int = 600
    seed: int = 0
    device: Device = "auto"
    threads: int = 2
    tracker: TrackerName = "tensorboard"
    dry_run: bool = False

    def __post_init__(self) -> None:
        _one_of("preset", self.preset, get_args(Preset))
        _one_of("normalisation", self.normalisation, get_args(Normalisation))
        _one_of("device", self.device, get_args(Device))
        _one_of("tracker", self.tracker, get_args(TrackerName))
        for name in (
            "filters",
            "tasks_per_step",
            "steps",
            "validate_every",
            "checkpoint_every",
            "threads",
        ):
            _at_least(name, getattr(self, name), 1)
        if self.patience is not None:
            _at_least("patience", self.patience, 1)
        # An interval needs a standard deviation, and that two values.
        for name in ("validation_episodes", "test_episodes"):
            _at_least(name, getattr(self, name), 2)
        _at_least("seed", self.seed, 0)
        _positive("l2", self.l2)
        _positive("learning_rate", self.learning_rate)
        own = {
            "lower_steps": self.lower_steps,
            "step_size": self.step_size,
            "adjoint_steps": self.adjoint_steps,
        }
        given = {name: value for name, value in own.items() if value is not None}
        if self.preset == "exact" and given:
            raise ConfigError(
                f"{given} were given with preset exact, which solves until it is done: "
                "leave them out, or choose preset paper."
            )
        for name, steps in (
            ("lower_steps", self.lower_steps),
            ("adjoint_steps", self.adjoint_steps),
        ):
            if steps is not None:
                _at_least(name, steps, 1)
        if self.step_size is not None:
            _positive("step_size", self.step_size)

    def refuse_settings_with_resume(self) -> None:
        """A run that goes on does so under its own settings.

        Raises:
            ConfigError: others were given beside `resume`.
        """
        default = TrainConfig(resume=self.resume)
        given = [
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        ]
        if given:
            raise ConfigError(
                f"{', '.join(given)} was given with resume, which goes on under the run's own "
                "settings: leave it out, or start a new run."
            )

    def published(self) -> dict[str, int | float | None]:
        """K, step size and N; None each for preset exact, which solves until it is done."""
        if self.preset == "exact":
            return {"K": None, "step_size": None, "N": None}
        return {
            "K": self.lower_steps or PAPER_STEPS,
            "step_size": self.step_size or PAPER_STEP_SIZE,
            "N": self.adjoint_steps or PAPER_ADJOINT_STEPS,
        }

    def lower(self) -> Lower:
        """The lower level's solvers."""
        return (
            exact()
            if self.preset == "exact"
            else paper(
                steps=self.lower_steps or PAPER_STEPS,
                step_size=self.step_size or PAPER_STEP_SIZE,
                adjoint_steps=self.adjoint_steps or PAPER_ADJOINT_STEPS,
            )
        )

    def place(self) -> torch.device:
        """The device to run on.

        Raises:
            ConfigError: CUDA was asked for and isn't there.
        """
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise ConfigError("device cuda was asked for, but torch sees none: use cpu or auto.")
        return torch.device("cuda" if there and self.device != "cpu" else "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Test a trained learner again, and check that its recorded accuracy is reproduced exactly.

    Attributes:
        run: the folder of a finished training run.
    """

    run: Path


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON values; `from_json` reads them back."""
    values = dataclasses.asdict(config)
    return values | {
        name: None if values[name] is None else str(values[name]) for name in ("run", "resume")
    }


def from_json(values: object) -> TrainConfig:
    """The settings that `to_json` wrote.

    Raises:
        ConfigError: a setting is missing, unknown, of another type or out of range.
    """
    try:
        return read(TrainConfig, values, "the settings")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
