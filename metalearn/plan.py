"""What a run would do, and the memory it would take: counted on one step that changes nothing."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from rich.console import Console

from metalearn.building import build_optimiser
from metalearn.episodes import Sampler
from metalearn.evaluate import TOGETHER
from metalearn.exactness import exact_of
from metalearn.memory import LiveBytes
from metalearn.methods.adjust import describe
from metalearn.training import Training, upper_step

if TYPE_CHECKING:
    from torch import Tensor


def predicted_bytes(training: Training) -> int:
    """Peak live tensor bytes of an upper step: images, weights and the optimiser's state included.

    One step is taken on a copy of the model, and thrown away.
    """
    model = copy.deepcopy(training.model)
    weights = list(model.parameters())
    resident: list[Tensor] = [*weights, *_resident(training)]
    optimiser = build_optimiser(training.configured, model)
    with LiveBytes(resident) as live:
        batch = training.episodes.sample(0, len(training.own))
        upper_step(
            training.method,
            model,
            optimiser,
            batch,
            watch=lambda certificate: None,
            tasks_per_chunk=training.config.tasks_per_chunk,
            scaler=copy.deepcopy(training.scaler),
        )
    peak: int = live.peak
    return peak


def evaluation_bytes(training: Training, test: Sampler) -> int:
    """Peak live tensor bytes while validation or test episodes are answered, as `accuracy` does."""
    resident = [*training.model.parameters(), *_resident(training, test)]
    together = min(TOGETHER, training.config.tasks_per_chunk or TOGETHER)
    with LiveBytes(resident) as live:
        batch = test.sample(0, together)
        training.method.predict(training.model, batch)
    peak: int = live.peak
    return peak


def measured_error(training: Training) -> str:
    """Whether the hypergradient's distance from the exact one will be recorded."""
    if not training.config.hypergradient_error:
        return "not measured (--hypergradient-error)"
    if exact_of(training.method) is None:
        return "not defined, for the lower level has not one minimiser"
    return "measured at each validation"


def _resident(training: Training, *more: Sampler) -> list[Tensor]:
    """Images in memory; those that the host keeps mapped from a file are none of it."""
    samplers = (training.episodes, training.validation, *more)
    # Omniglot's turned images are a copy
    copied = training.config.data == "omniglot"
    return [s.pool.images for s in samplers if s.pool.target is None or copied]


def say_plan(training: Training, test: Sampler, *, console: Console) -> None:
    """Print what would be done."""
    config, configured = training.config, training.configured
    images = config.train.way * (config.train.shot + config.train.query)
    parameters = sum(p.numel() for p in training.model.parameters())
    splits = {"train": training.episodes, "validation": training.validation, "test": test}
    classes = ", ".join(f"{len(s.pool.names)} {name}" for name, s in splits.items())
    lines = [
        f"data: {config.data}; classes: {classes}",
        f"training: {config.steps} upper steps of {training.tasks} tasks, {config.train}: "
        f"{training.tasks * images} images a step",
        f"backbone: {config.backbone_line()}, {parameters} parameters (all that is learned), "
        f"normalisation {config.normalisation}, {config.precision}",
        f"method: {config.method} ({configured.variant}): {describe(training.method)}",
        f"source: {configured.source}. {configured.departures}",
        f"upper step: {configured.optimiser}, learning rate {configured.learning_rate:g}, "
        f"{configured.schedule}",
        f"validation: every {config.validate_every} steps, {config.validation_episodes} episodes; "
        f"test: {config.test_episodes} episodes, {config.test}",
        f"hypergradient's error: {measured_error(training)}",
        f"memory: {predicted_bytes(training) / 2**20:.1f} MiB of tensors at the peak of an upper "
        f"step, {evaluation_bytes(training, test) / 2**20:.1f} MiB at that of an evaluation, on "
        f"{training.device}, beside the interpreter and its libraries",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
