"""What a run would do, and the memory it would take: counted on one step that changes nothing."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

from rich.console import Console

from metalearn.episodes import Sampler
from metalearn.memory import LiveBytes
from metalearn.training import Training, upper_step

if TYPE_CHECKING:
    from torch import Tensor


def predicted_bytes(training: Training) -> int:
    """Peak live tensor bytes of an upper step: images, weights and the optimiser's state included.

    One step is taken on a copy of the backbone, and thrown away. Validation is smaller unless its
    episodes are larger than those of training.
    """
    learner = dataclasses.replace(
        training.learner, backbone=copy.deepcopy(training.learner.backbone)
    )
    weights = list(learner.backbone.parameters())
    resident: list[Tensor] = [*weights, training.episodes.pool.images]
    resident.append(training.validation.pool.images)
    optimiser = type(training.optimiser)(weights, lr=0.0)
    with LiveBytes(resident) as live:
        batch = training.episodes.sample(0, training.config.tasks_per_step)
        upper_step(learner, optimiser, batch, watch=copy.deepcopy(training.evidence))
    peak: int = live.peak
    return peak


def say_plan(training: Training, test: Sampler, *, console: Console) -> None:
    """Print what would be done."""
    config, backbone = training.config, training.learner.backbone
    images = config.train.way * (config.train.shot + config.train.query)
    parameters = sum(p.numel() for p in backbone.parameters())
    splits = {"train": training.episodes, "validation": training.validation, "test": test}
    classes = ", ".join(f"{len(s.pool.names)} {name}" for name, s in splits.items())
    lines = [
        f"data: glyphs; classes: {classes}",
        f"training: {config.steps} upper steps of {config.tasks_per_step} tasks, {config.train}: "
        f"{config.tasks_per_step * images} images a step",
        f"backbone: {parameters} parameters, normalisation {config.normalisation}",
        f"lower level: preset {config.preset}, l2 = {config.l2}: {training.learner.lower}",
        f"validation: every {config.validate_every} steps, {config.validation_episodes} episodes; "
        f"test: {config.test_episodes} episodes, {config.test}",
        f"memory: {predicted_bytes(training) / 2**20:.1f} MiB of tensors at the peak of an upper "
        f"step, on {training.device}, beside the interpreter and its libraries",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
