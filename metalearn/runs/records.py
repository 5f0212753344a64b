"""Records that runs leave: the result of a run, of a later test, and of a memory measurement."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalearn.config.groups import EpisodeShape
from metalearn.config.schema import LATER, parse, read
from metalearn.config.train import EVALUATION_SEED, TrainConfig
from metalearn.data import Identity
from metalearn.errors import RunError
from metalearn.methods.overrides import describe, numbers
from metalearn.testing.accuracy import INTERVAL
from metalearn.testing.calibration import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class TestProtocol:
    """Definition of the test episodes.

    Attributes:
        data: Name of the data set.
        data_sha256: Hash of its images, see `metalearn.data.Identity`.
        split: Split whose classes are tested.
        way: Number of classes in an episode.
        shot: Labelled (support) images of each class.
        query: Images of each class to classify.
        episodes: Number of episodes.
        episode_seed: Seed of the sampler.
        fewest_way: Smallest number of classes, if it is drawn, `way` being the largest.
        fewest_shot: Smallest number of labelled images of a class, if it is drawn.
    """

    __test__ = False  # no test, whatever pytest takes its name for

    data: str
    data_sha256: str
    split: str
    way: int
    shot: int
    query: int
    episodes: int
    episode_seed: int
    fewest_way: int | None = field(default=None, metadata={LATER: True})
    fewest_shot: int | None = field(default=None, metadata={LATER: True})

    @property
    def shape(self) -> EpisodeShape:
        """The shape of an episode."""
        return EpisodeShape(
            way=self.way,
            shot=self.shot,
            query=self.query,
            fewest_way=self.fewest_way,
            fewest_shot=self.fewest_shot,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a training run: result.json, field by field.

    Attributes:
        accuracy: Mean accuracy over the test episodes, from 0 to 1.
        interval: Half the width of its 95 % interval.
        calibration: Calibration of the answers to the test episodes.
        interval_formula: Formula of the interval.
        protocol: Definition of the test episodes.
        method: Name of the method's preset.
        configured: Solvers and numbers of the method, as text.
        optimiser: Optimiser of the upper level.
        learning_rate: Learning rate at the first upper step.
        schedule: Learning rate over the run.
        tasks_per_step: Number B of tasks of an upper step.
        variant: "as published", or "best effort" with the differences named in `departures`.
        source: Publication or script that method and numbers are taken from.
        departures: Differences from that source.
        K: Number of lower-level steps; None if the lower level solves to a tolerance or has none.
        step_size: Step size of the lower-level steps; None likewise.
        N: Number of conjugate-gradient steps of the adjoint; None likewise.
        test_K: Number of lower-level steps in testing; None likewise.
        test_step_size: Step size of the lower-level steps in testing; None likewise.
        l2: Weight of the L2 penalty on the head; None if there is none.
        backbone: Name of the backbone, with its size if that is a setting.
        normalisation: Normalisation of the backbone.
        precision: Number format of the backbone's products.
        certificate: Summary of the training run's certificates; None without adjoint systems.
        validation: Best mean accuracy on the validation episodes.
        validation_interval: Half the width of its 95 % interval.
        best_step: Upper step of that validation, whose weights were kept.
        seed: Seed of the initial weights and the training episodes.
        commit: Git commit of the code, read before the run.
        dirty: True if the code differed from that commit; None if unknown.
        versions: Versions of Python and packages.
        device: Device that the run computed on.
        threads: Number of CPU threads.
        peak_memory: Peak memory in bytes, and how it was measured.
        step_bytes: Peak live tensor bytes of one upper step, see `metalearn.memory`.
        seconds: Time from the start of the run to the end of the test.
        parameters: Number of learned parameters.
        files: SHA-256 of the settings and of the weights that this is the result of.
        per_episode: Accuracy of each test episode.
    """

    accuracy: float
    interval: float
    calibration: Calibration
    interval_formula: str
    protocol: TestProtocol
    method: str
    configured: str
    optimiser: str
    learning_rate: float
    schedule: str
    tasks_per_step: int
    variant: str
    source: str
    departures: str
    K: int | None
    step_size: float | None
    N: int | None
    test_K: int | None
    test_step_size: float | None
    l2: float | None
    backbone: str
    normalisation: str
    precision: str
    certificate: dict[str, Any] | None
    validation: float
    validation_interval: float
    best_step: int
    seed: int
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    threads: int
    peak_memory: dict[str, Any]
    step_bytes: int
    seconds: float
    parameters: int
    files: dict[str, str]
    per_episode: list[float]


def stated(config: TrainConfig, data: Identity) -> dict[str, Any]:
    """Fields of a result that follow from settings and data alone, the model's left out."""
    preset = config.preset()
    return {
        "interval_formula": INTERVAL,
        "protocol": TestProtocol(
            data=data.name,
            data_sha256=data.sha256,
            split="test",
            **dataclasses.asdict(config.test),
            episodes=config.evaluation.test_episodes,
            episode_seed=EVALUATION_SEED,
        ),
        "method": config.method.name,
        "configured": describe(preset.method),
        "optimiser": preset.optimiser,
        "learning_rate": preset.learning_rate,
        "schedule": preset.schedule,
        "tasks_per_step": preset.tasks_per_step,
        "variant": preset.variant,
        "source": preset.source,
        "departures": preset.departures,
        **dataclasses.asdict(numbers(preset.method)),
        "l2": getattr(preset.method, "l2", None),
        "precision": config.backbone.precision,
        "seed": config.run.seed,
        "threads": config.run.threads,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Accuracy after a number of lower-level steps.

    Attributes:
        lower_steps: Number K of lower-level steps in testing; None: the method's own.
        accuracy: Mean accuracy over the episodes, from 0 to 1.
        interval: Half the width of its 95 % interval.
        calibration: Calibration of the answers.
        per_episode: Accuracy of each episode.
    """

    lower_steps: int | None
    accuracy: float
    interval: float
    calibration: Calibration
    per_episode: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retested:
    """Result of `metalearn test`: the file that it writes.

    Attributes:
        run: Name of the run's folder.
        method: Name of the method's preset.
        backbone: Name of the backbone, with its size if that is a setting.
        normalisation: Normalisation of the backbone.
        seed: Seed of the run.
        protocol: Definition of the episodes.
        interval_formula: Formula of the intervals.
        points: Accuracy for each number of lower-level steps.
        commit: Git commit of the code.
        dirty: True if the code differed from that commit; None if unknown.
        versions: Versions of Python and packages.
        device: Device that the test computed on.
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
        RunError: the file is unreadable or damaged.
    """
    try:
        return read(Retested, parse(path.read_bytes()), "it")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is unreadable or damaged ({error}): test again.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Result of `metalearn measure`: the file that it writes.

    Attributes:
        measure: Counted quantity.
        protocol: Episodes, backbone and tasks of a step, in one line.
        peaks: Peak bytes, by method and by number of lower-level steps.
        commit: Git commit of the code.
        dirty: True if the code differed from that commit; None if unknown.
        versions: Versions of Python and packages.
        device: Device that the measurement computed on.
        seed: Seed of the weights and episodes.
    """

    measure: str
    protocol: str
    peaks: dict[str, dict[str, int]]
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    seed: int


def load_measured(path: Path) -> Measured:
    """Read what `metalearn measure` wrote.

    Raises:
        RunError: the file is unreadable or damaged.
    """
    try:
        return read(Measured, parse(path.read_bytes()), "it")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is unreadable or damaged ({error}): measure again.") from error
