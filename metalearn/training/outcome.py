"""The result of a run, put together from its state and its test."""

from __future__ import annotations

from typing import Any

from metalearn.data import Identity
from metalearn.runs import provenance
from metalearn.runs.records import Result, stated
from metalearn.testing.accuracy import Accuracy
from metalearn.training.build import recorded
from metalearn.training.state import Training


def result(
    training: Training,
    tested: Accuracy,
    *,
    data: Identity,
    origin: dict[str, Any],
    step_bytes: int,
    seconds: float,
    files: dict[str, str],
) -> Result:
    """The result of a run.

    Args:
        training: the run after its last step.
        tested: accuracy of the best weights on the test episodes.
        data: the run's.
        origin: version of the code.
        step_bytes: peak live tensor bytes of one upper step.
        seconds: time of the run.
        files: SHA-256 of the settings and of the weights.
    """
    assert training.best is not None  # a run validates before it is tested
    best = training.best.found
    return Result(
        accuracy=tested.mean,
        interval=tested.interval,
        calibration=tested.calibration,
        **stated(training.config, data),
        **recorded(training.config, training.model),
        certificate=training.certificates.summary(),
        validation=best.mean,
        validation_interval=best.interval,
        best_step=best.step,
        **origin,
        versions=provenance.versions(),
        device=_machines(training),
        peak_memory=provenance.peak_memory(training.device),
        step_bytes=step_bytes,
        seconds=seconds,
        files=files,
        per_episode=tested.episodes.tolist(),
    )


def _machines(training: Training) -> str:
    name, ranks = provenance.device_name(training.device), training.world.size
    return name if ranks == 1 else f"{ranks} ranks, each {name}"
