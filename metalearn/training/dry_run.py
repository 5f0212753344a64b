"""A dry run: print what a run would do and the memory that it would take."""

from __future__ import annotations

from rich.console import Console

from metalearn.memory import mebibytes
from metalearn.methods.overrides import describe
from metalearn.tasks.episodes import Sampler
from metalearn.training.budget import evaluation_bytes, predicted_bytes
from metalearn.training.build import recorded
from metalearn.training.reference import exact_of
from metalearn.training.state import Training


def say_plan(training: Training, test: Sampler, *, console: Console) -> None:
    """Print what a run would do."""
    config, preset = training.config, training.preset
    evaluation = config.evaluation
    images = config.train.way * (config.train.shot + config.train.query)
    described = recorded(config, training.model)
    splits = {"train": training.sampler, "validation": training.validation, "test": test}
    classes = ", ".join(f"{len(s.pool.names)} {name}" for name, s in splits.items())
    lines = [
        f"data: {config.data.name}; classes: {classes}",
        f"training: {config.optimisation.steps} upper steps of {training.tasks} tasks, "
        f"{config.train}: {training.tasks * images} images a step",
        f"backbone: {described['backbone']}, {described['parameters']} parameters (all that is "
        f"learned), normalisation {described['normalisation']}, {config.backbone.precision}",
        f"method: {config.method.name} ({preset.variant}): {describe(training.method)}",
        f"source: {preset.source}. {preset.departures}",
        f"upper step: {preset.optimiser}, learning rate {preset.learning_rate:g}, "
        f"{preset.schedule}",
        f"validation: every {evaluation.validate_every} steps, {evaluation.validation_episodes} "
        f"episodes; test: {evaluation.test_episodes} episodes, {config.test}",
        f"hypergradient's error: {measured_error(training)}",
        f"memory: {mebibytes(predicted_bytes(training))} of tensors at the peak of an upper step "
        f"(at most {config.memory.tasks_per_chunk or len(training.own)} tasks at once), "
        f"{mebibytes(evaluation_bytes(training, test))} at that of an evaluation, on "
        f"{training.device}, beside the interpreter and its libraries",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def measured_error(training: Training) -> str:
    """One line on whether the hypergradient's distance from the exact one is recorded."""
    if not training.config.evaluation.hypergradient_error:
        return "not measured (--hypergradient-error)"
    if exact_of(training.method) is None:
        return "not defined, for the lower level has not one minimiser"
    return "measured at each validation"
