"""`metalearn test`: a trained learner on other episodes than its own, or with other lower steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from metalearn.config.schema import parse, read
from metalearn.config.train import Protocol, TrainConfig
from metalearn.data import Split
from metalearn.errors import ConfigError, RunError
from metalearn.files import write_json
from metalearn.methods.method import Method
from metalearn.methods.overrides import tested_by
from metalearn.runs import provenance
from metalearn.runs.folder import Run
from metalearn.runs.records import EVALUATION_SEED, TestProtocol
from metalearn.testing.accuracy import INTERVAL, accuracy
from metalearn.testing.calibration import Calibration
from metalearn.training.build import build_model, evaluation_sampler, identity


@dataclass(frozen=True, slots=True, kw_only=True)
class RetestConfig:
    """Test a trained learner on other episodes, or after other numbers of lower steps.

    Attributes:
        run: the folder of a finished training run.
        out: the JSON file to write.
        protocol: what an episode asks.
        split: where its images come from.
        episodes: how many.
        lower_steps: lower steps of testing: the adaptation curve; by default the method's own.
    """

    run: Path
    out: Path
    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    split: Split = "test"
    episodes: int = 600
    lower_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise ConfigError(f"episodes was given as {self.episodes}: it must be at least 2.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What came out after a number of lower steps.

    Attributes:
        lower_steps: K in testing; None: as the method has it.
        accuracy: mean over the episodes, as a part of one.
        interval: half its 95 % interval.
        calibration: of all answers.
        per_episode: accuracy of each episode.
    """

    lower_steps: int | None
    accuracy: float
    interval: float
    calibration: Calibration
    per_episode: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retested:
    """The file that `metalearn test` writes.

    Attributes:
        run: name of the run's folder.
        method: name of its preset.
        backbone: its name and its number of filters, where that is a setting.
        normalisation: the backbone's.
        seed: of the run.
        protocol: the episodes.
        interval_formula: how intervals are computed.
        points: one for each number of lower steps.
        commit: of the code.
        dirty: whether the code differed from it.
        versions: of Python and packages.
        device: it ran on.
    """

    run: str
    method: str
    backbone: str
    normalisation: str
    seed: int
    protocol: TestProtocol
    interval_formula: str
    points: list[Point]
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str


def load_retested(path: Path) -> Retested:
    """Read what `metalearn test` wrote.

    Raises:
        RunError: it is unreadable or damaged.
    """
    try:
        return read(Retested, parse(path.read_bytes()), "it")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is unreadable or damaged ({error}): test again.") from error


def retest(config: RetestConfig, *, console: Console) -> list[Point]:
    """Test, print, and write the file.

    Raises:
        MetalearnError: the run can't be read, a setting can't work, or the file can't be written.
        hypergrad.HypergradError: a lower level is not finite.
    """
    run = Run(config.run)
    settings = dataclasses.replace(run.config(), test=config.protocol)
    if run.digests() != run.result().files:
        raise RunError(f"settings or weights in {run.folder} are not those of its result.")
    torch.set_num_threads(settings.threads)
    device = settings.place()
    sampler = evaluation_sampler(config.split, settings, device=device)
    model = build_model(settings, sampler.pool, device=device)
    model.load_state_dict(run.weights())
    points = []
    table = Table("lower steps", "accuracy (%)", "calibration error", "log loss (nats)")
    for steps, method in _methods(settings, config.lower_steps):
        found = accuracy(
            method,
            model,
            sampler,
            config.episodes,
            tasks_per_chunk=settings.tasks_per_chunk,
        )
        points.append(
            Point(
                lower_steps=steps,
                accuracy=found.mean,
                interval=found.interval,
                calibration=found.calibration,
                per_episode=found.episodes.tolist(),
            )
        )
        error, loss = found.calibration.error, found.calibration.log_loss
        name = "as trained" if steps is None else str(steps)
        table.add_row(name, str(found), f"{error:.3f}", f"{loss:.3f}")
    _write(config, settings, points, device)
    console.print(table)
    console.print(
        f"{settings.data}, {config.protocol}, {config.episodes} {config.split} episodes; interval: "
        f"{INTERVAL}; normalisation {settings.normalisation}",
        highlight=False,
        soft_wrap=True,
    )
    return points


def _methods(settings: TrainConfig, steps: tuple[int, ...]) -> list[tuple[int | None, Method]]:
    if not steps:
        return [(None, settings.subject)]
    return [(count, tested_by(settings.subject, lower_steps=count)) for count in steps]


def _write(
    config: RetestConfig, settings: TrainConfig, points: list[Point], device: torch.device
) -> None:
    data = identity(settings)
    record = Retested(
        run=config.run.resolve().name,
        method=settings.method,
        backbone=settings.backbone_line(),
        normalisation=settings.normalisation,
        seed=settings.seed,
        protocol=TestProtocol(
            data=data.name,
            data_sha256=data.sha256,
            split=config.split,
            **dataclasses.asdict(config.protocol),
            episodes=config.episodes,
            episode_seed=EVALUATION_SEED,
        ),
        interval_formula=INTERVAL,
        points=points,
        **provenance.commit(),
        versions=provenance.versions(),
        device=provenance.device_name(device),
    )
    try:
        write_json(config.out, dataclasses.asdict(record))
    except OSError as error:
        raise RunError(f"{config.out} can't be written ({error}): give another --out.") from error
