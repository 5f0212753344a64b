"""What comes out of a run, and which of it follows from the settings alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from metalearn.config.train import TrainConfig
from metalearn.data import Identity
from metalearn.methods.overrides import describe, numbers
from metalearn.testing.accuracy import INTERVAL
from metalearn.testing.calibration import Calibration

# Validation and test episodes are the same in all runs, so that runs can be compared in pairs.
EVALUATION_SEED: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TestProtocol:
    """The test episodes: their data, what one of them asks, how many, and the sampler's seed.

    `data` and `data_sha256` are those of `metalearn.data.Identity`.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """result.json, field by field.

    Attributes:
        accuracy: mean over the test episodes, as a part of one.
        interval: half the 95 % interval of that mean.
        calibration: of the answers to the test episodes.
        interval_formula: how the interval is computed.
        protocol: the test episodes.
        method: name of the method's preset.
        configured: the method's solvers and numbers.
        optimiser: of the upper step.
        learning_rate: its learning rate at the start.
        schedule: of the learning rate.
        tasks_per_step: B.
        variant: "as published", or "best effort" with the departures named in `departures`.
        source: of the method and its numbers.
        departures: what is not the source's.
        K: lower steps; None where the lower level solves to a tolerance, or there is none.
        step_size: of these steps; None likewise.
        N: conjugate-gradient steps of the adjoint; None likewise.
        test_K: lower steps of testing; None likewise.
        test_step_size: of these steps; None likewise.
        l2: the head's regulariser; None where there is none.
        backbone: its name and its number of filters, where that is a setting.
        normalisation: the backbone's.
        precision: of the backbone's products.
        certificate: `Certificates.summary` of the training run; None for a method without adjoint.
        validation: best mean accuracy on the validation episodes.
        validation_interval: half its 95 % interval.
        best_step: the upper step after which the weights were taken.
        seed: of the initial weights and the training episodes.
        commit: of the code, read before the run.
        dirty: whether the code differed from that commit; None if unknown.
        versions: of Python and packages.
        device: the computation ran on.
        threads: of the CPU.
        peak_memory: bytes and how they were measured.
        step_bytes: peak live tensor bytes of one upper step; see `metalearn.memory`.
        seconds: from the start of the run to the end of the test.
        parameters: number of the backbone's.
        files: SHA-256 of the settings and of the weights this is the result of.
        per_episode: accuracy of each test episode.
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
    """The fields of a result that its settings and data decide."""
    configured = config.configured()
    return {
        "interval_formula": INTERVAL,
        "protocol": TestProtocol(
            data=data.name,
            data_sha256=data.sha256,
            split="test",
            **dataclasses.asdict(config.test),
            episodes=config.test_episodes,
            episode_seed=EVALUATION_SEED,
        ),
        "method": config.method,
        "configured": describe(configured.method),
        "optimiser": configured.optimiser,
        "learning_rate": configured.learning_rate,
        "schedule": configured.schedule,
        "tasks_per_step": configured.tasks_per_step,
        "variant": configured.variant,
        "source": configured.source,
        "departures": configured.departures,
        **dataclasses.asdict(numbers(configured.method)),
        "l2": getattr(configured.method, "l2", None),
        "backbone": config.backbone_line(),
        "normalisation": config.normalisation,
        "precision": config.precision,
        "seed": config.seed,
        "threads": config.threads,
    }
