"""Settings of the commands: frozen, and refused when they can't work."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch

from metalearn.backbones import Normalisation
from metalearn.config.schema import read
from metalearn.data import DatasetName, Residency
from metalearn.errors import ConfigError
from metalearn.memory import parse_bytes
from metalearn.methods import Method, Precision
from metalearn.methods.overrides import CAME_LATER, AdjointName, adjusted
from metalearn.methods.presets import Optimiser, Preset, Schedule, preset
from metalearn.runs.trackers import TrackerName

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

MethodName: TypeAlias = Literal[
    "memory-reduced",
    "memory-reduced-exact",
    "itd-bio",
    "anil",
    "maml",
    "maml-omniglot",
    "maml-omniglot-20way",
    "maml-baseline",
    "maml-learn2learn",
    "fomaml",
    "imaml",
    "reptile",
    "r2d2",
    "protonet",
]
"""The names of `metalearn.methods.presets.PRESETS`."""

DataName: TypeAlias = Literal["glyphs"] | DatasetName

BackboneName: TypeAlias = Literal["conv4", "conv4-wide", "resnet12"]


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
    """Train a few-shot learner, by default on the built-in glyphs, then test it.

    Attributes:
        run: folder for the results, new or empty; by default runs/DATA-METHOD-TIME.
        resume: folder of a stopped run to go on with, under its own settings.
        data: glyphs, which are rendered at first use, or what `metalearn prepare` has made.
        data_root: the folder `metalearn prepare` was given; by default the cache folder's.
        residency: of prepared images: on the device, mapped from the file by the host, or auto.
        augment: change training images at random (photographs: crop, mirror, colours); glyphs are
            jittered in all splits, and Omniglot's turned characters are classes, with or without.
        method: preset of a method, with the numbers of its source; see docs/methods.md.
        lower_steps: K in training, instead of the preset's.
        test_lower_steps: K in validation and testing, instead of the preset's.
        step_size: of the K steps, instead of the preset's.
        adjoint: of softmax heads, instead of the preset's: cg: N steps of conjugate gradients, 20
            unless adjoint_steps says otherwise; woodbury: a direct solve.
        adjoint_steps: N, instead of the preset's.
        l2: the head's regulariser, instead of the preset's.
        compiled: make one program of the K steps on the heads, and one of the N of the adjoint, by
            torch.compile: spares most of their operations, for about a second a step of compiling
            at the first batch of each size.
        backbone: conv4: four blocks of as many filters each; conv4-wide: 96, 192, 384 and 512;
            resnet12: 64, 160, 320 and 640.
        filters: of each block of conv4.
        drop_rate: of resnet12's DropBlock.
        normalisation: transductive: by each task's own batch, support and query apart; stored:
            running averages in testing; group: each image by itself.
        precision: of the backbone's products; lower levels are in float32, or float64 with it.
        channels_last: memory layout of images and weights; by default where it is known to be
            faster: for conv4 on a CPU, unless the method differentiates the network twice.
        recompute: compute the backbone's activations again in backward instead of keeping them.
        streamed: pass one task's support, or its queries, at a time and keep no activations:
            backward runs the backbone again. Memory for a second pass forward. (Averages of stored
            normalisation then move with each task, not with each chunk.)
        train: training episodes.
        test: validation and test episodes.
        tasks_per_step: B, tasks of one upper step, instead of the preset's.
        tasks_per_chunk: the most tasks at once, which bounds memory; by default all.
        memory_budget: memory that a step may take (2GiB, 500MB), from which tasks_per_chunk is
            found.
        steps: upper steps.
        learning_rate: of the upper step at the start, instead of the preset's.
        optimiser: of the upper step, instead of the preset's.
        schedule: of the learning rate, instead of the preset's: constant, or to 0 along a cosine.
        validate_every: upper steps between validations.
        checkpoint_every: upper steps between checkpoints, from which a stopped run is resumed.
        patience: validations without a new best after which training ends; by default never.
        validation_episodes: episodes of one validation.
        hypergradient_error: at each validation, measure how far the hypergradient is from the exact
            one on training tasks that are never trained on, where the lower level has one
            minimiser; costs a few upper steps each time.
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
    data: DataName = "glyphs"
    data_root: Path | None = None
    residency: Residency = "auto"
    augment: bool = True
    method: MethodName = "memory-reduced-exact"
    lower_steps: int | None = None
    test_lower_steps: int | None = None
    step_size: float | None = None
    adjoint: AdjointName | None = None
    adjoint_steps: int | None = None
    l2: float | None = None
    compiled: bool = False
    backbone: BackboneName = "conv4"
    filters: int = 32
    drop_rate: float = 0.1
    normalisation: Normalisation = "transductive"
    precision: Precision = "float32"
    channels_last: bool | None = None
    recompute: bool = False
    streamed: bool = False
    train: Protocol = Protocol(way=20, shot=1, query=2)
    test: Protocol = Protocol()
    tasks_per_step: int | None = None
    tasks_per_chunk: int | None = None
    memory_budget: str | None = None
    steps: int = 800
    learning_rate: float | None = None
    optimiser: Optimiser | None = None
    schedule: Schedule | None = None
    validate_every: int = 100
    checkpoint_every: int = 100
    patience: int | None = None
    validation_episodes: int = 200
    hypergradient_error: bool = False
    test_episodes: int = 600
    seed: int = 0
    device: Device = "auto"
    threads: int = 2
    tracker: TrackerName = "tensorboard"
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("residency", Residency),
            ("method", MethodName),
            ("backbone", BackboneName),
            ("normalisation", Normalisation),
            ("precision", Precision),
            ("device", Device),
            ("tracker", TrackerName),
        ):
            _one_of(name, getattr(self, name), get_args(allowed))
        _one_of("data", self.data, ("glyphs", *get_args(DatasetName)))
        if self.optimiser is not None:
            _one_of("optimiser", self.optimiser, get_args(Optimiser))
        if self.adjoint is not None:
            _one_of("adjoint", self.adjoint, get_args(AdjointName))
        if self.schedule is not None:
            _one_of("schedule", self.schedule, get_args(Schedule))
        for name in ("filters", "steps", "validate_every", "checkpoint_every", "threads"):
            _at_least(name, getattr(self, name), 1)
        for name in ("lower_steps", "adjoint_steps", "tasks_per_step", "tasks_per_chunk"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
            if self.tasks_per_chunk is not None:
                raise ConfigError(
                    f"memory_budget {self.memory_budget} and tasks_per_chunk "
                    f"{self.tasks_per_chunk} were given, of which one decides the other: give one."
                )
        if self.test_lower_steps is not None:
            _at_least("test_lower_steps", self.test_lower_steps, 0)
        if self.patience is not None:
            _at_least("patience", self.patience, 1)
        # An interval needs a standard deviation, and that two values.
        for name in ("validation_episodes", "test_episodes"):
            _at_least(name, getattr(self, name), 2)
        _at_least("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise ConfigError(f"seed was given as {self.seed}: it must be below 2^63.")
        if self.threads > 1024:
            raise ConfigError(f"threads was given as {self.threads}: it must be at most 1024.")
        if self.hypergradient_error and self.precision == "float16":
            raise ConfigError(
                "hypergradient_error was given with precision float16, whose gradients only a "
                "scaled loss keeps: use float32 or bfloat16."
            )
        for name in ("step_size", "l2", "learning_rate"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        if self.streamed and self.recompute:
            raise ConfigError(
                "streamed and recompute were given, which both compute activations again: give one."
            )
        if not 0 <= self.drop_rate < 1:
            raise ConfigError(f"drop_rate was given as {self.drop_rate}: it must be in [0, 1).")
        self.configured()

    def answers(self, asked: TrainConfig) -> bool:
        """Whether a run that recorded these settings is the one that is asked for.

        What a device `auto` and a memory budget were asked to lead to is recorded in their place.
        """
        budget = asked.memory_budget is not None
        came_to = dataclasses.replace(
            asked,
            run=self.run,
            device=self.device if asked.device == "auto" else asked.device,
            memory_budget=None,
            tasks_per_chunk=self.tasks_per_chunk if budget else asked.tasks_per_chunk,
        )
        return came_to == self

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

    def configured(self) -> Preset:
        """The preset with the numbers that are given instead of its own.

        Raises:
            ConfigError: the method has no such number.
        """
        chosen = preset(self.method)
        return dataclasses.replace(
            chosen,
            method=adjusted(
                chosen.method,
                lower_steps=self.lower_steps,
                test_lower_steps=self.test_lower_steps,
                step_size=self.step_size,
                adjoint=self.adjoint,
                adjoint_steps=self.adjoint_steps,
                l2=self.l2,
                compiled=self.compiled,
            ),
            optimiser=self.optimiser or chosen.optimiser,
            learning_rate=self.learning_rate or chosen.learning_rate,
            tasks_per_step=self.tasks_per_step or chosen.tasks_per_step,
            schedule=self.schedule or chosen.schedule,
            departures=self._departures(chosen),
        )

    def _departures(self, chosen: Preset) -> str:
        """What is not the source's, with what was changed on the way."""
        names = (
            "lower_steps",
            "test_lower_steps",
            "step_size",
            "adjoint",
            "adjoint_steps",
            "l2",
            "tasks_per_step",
            "learning_rate",
            "optimiser",
            "schedule",
        )
        changed = [
            f"{name} = {getattr(self, name)}" for name in names if getattr(self, name) is not None
        ]
        own = f"Given: {', '.join(changed)}." if changed else ""
        return " ".join(part for part in (chosen.departures, own) if part)

    def backbone_line(self) -> str:
        """Name of the backbone, and what distinguishes it."""
        own = {"conv4": f"-{self.filters}", "resnet12": f", drop rate {self.drop_rate}"}
        return f"{self.backbone}{own.get(self.backbone, '')}"

    @property
    def subject(self) -> Method:
        """The method, its numbers included."""
        return self.configured().method

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
        name: None if values[name] is None else str(values[name])
        for name in ("run", "resume", "data_root")
    }


def from_json(values: object) -> TrainConfig:
    """The settings that `to_json` wrote.

    Raises:
        ConfigError: a setting is missing, unknown, of another type or out of range.
    """
    try:
        known = CAME_LATER | values if isinstance(values, dict) else values
        return read(TrainConfig, known, "the settings")
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
