"""Memory of a run: counted on a step that changes nothing, and chunks that keep to a budget."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from metalearn.config.checks import parse_bytes
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError
from metalearn.memory import LiveBytes, mebibytes
from metalearn.tasks.episodes import Sampler, chunked
from metalearn.tasks.stream import drawn
from metalearn.testing.accuracy import TOGETHER
from metalearn.training.build import build_optimiser
from metalearn.training.state import Training
from metalearn.training.step import upper_step


def predicted_bytes(training: Training) -> int:
    """Peak live tensor bytes of an upper step: images, weights and the optimiser's state included.

    A step of two chunks is taken on a copy of the model, and thrown away: more chunks are no more
    memory, and the second finds the gradients of the first. A run of no steps takes none.
    """
    if training.config.optimisation.steps == 0:
        return 0
    return _peak(training, training.config.memory.tasks_per_chunk or _share(training))


def _share(training: Training) -> int:
    """The most tasks of an upper step that one rank has."""
    return -(-training.tasks // training.world.size)


def _peak(training: Training, tasks_per_chunk: int) -> int:
    """Peak bytes of a step in chunks of this size: counted, or on CUDA from the allocator."""
    model = copy.deepcopy(training.model)
    weights = list(model.parameters())
    cuda = training.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(training.device)
    # what a step draws of torch's own generators must not be missing from the run
    generators = torch.random.fork_rng([training.device] if cuda else [])
    with generators, LiveBytes([*weights, *_resident(training)]) as live:
        optimiser = build_optimiser(training.preset, model)
        for weight in weights:  # a step of no size, to have the optimiser's state
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
        optimiser.step()
        tasks = range(min(_share(training), 2 * tasks_per_chunk))
        upper_step(
            training.preset.method,
            model,
            optimiser,
            drawn(training.sampler.largest(), chunked(tasks, tasks_per_chunk)),
            tasks=len(tasks),
            watch=lambda certificate: None,
            scaler=copy.deepcopy(training.scaler),
        )
    if cuda:  # the copy is none of a run
        copied = sum(weight.nbytes for weight in weights)
        return torch.cuda.max_memory_allocated(training.device) - copied
    peak: int = live.peak
    return peak


@dataclass(frozen=True, slots=True)
class Fit:
    """Peak bytes of an upper step as if they were affine in the tasks of a chunk.

    They are the most that one of several moments takes, each of which is affine: convex. Between
    two sizes they lie on or below the line through what these take, beyond on or above.

    Attributes:
        fixed: bytes whatever the tasks.
        per_task: bytes of one task more.
    """

    fixed: int
    per_task: int

    @classmethod
    def of(cls, training: Training) -> Fit:
        """Through what chunks of one and of two tasks take."""
        one, two = (_peak(training, tasks) for tasks in (1, min(2, _share(training))))
        return cls(fixed=one - (two - one), per_task=two - one)

    def through(self, tasks_per_chunk: int, counted: int) -> Fit:
        """Through what one task takes, and what chunks of this size were counted to."""
        one = self.bytes(1)
        per_task = -(-(counted - one) // (tasks_per_chunk - 1))
        return Fit(fixed=one - per_task, per_task=per_task)

    def bytes(self, tasks_per_chunk: int) -> int:
        """Predicted for chunks of this size."""
        return self.fixed + tasks_per_chunk * self.per_task

    def tasks(self, budget: int, tasks: int) -> int:
        """The size of chunks for which a step of so many tasks keeps within a budget.

        Chunks are as few as the line allows, then as small as possible.

        Raises:
            ConfigError: a single task takes more.
        """
        if self.bytes(1) > budget:
            raise ConfigError(
                f"memory_budget is {mebibytes(budget)}, but a step takes {mebibytes(self.bytes(1))}"
                " with one task at a time: give more, or streamed, or a smaller backbone."
            )
        most = tasks if self.bytes(tasks) <= budget else (budget - self.fixed) // self.per_task
        return math.ceil(tasks / math.ceil(tasks / most))


def within_budget(training: Training, *, console: Console) -> TrainConfig:
    """The settings with the chunk that a memory budget leads to in place of the budget.

    Raises:
        ConfigError: there is no such chunk.
    """
    config = training.config
    if config.memory.budget is None:
        return config
    world, tasks = training.world, _share(training)
    # the chunks of all ranks must be the same: the smallest that any of them can afford
    with world.together("the memory budget"):
        budget = parse_bytes(config.memory.budget)
        fit = Fit.of(training)
        own = fit.tasks(budget, tasks)
        counted = _peak(training, own)
        while counted > budget and own > 1:  # at another moment than with one task: once
            fit = fit.through(own, counted)
            own = fit.tasks(budget, tasks)
            counted = _peak(training, own)
        if counted > budget:
            raise ConfigError(
                f"memory_budget is {mebibytes(budget)}, but a step was counted to take "
                f"{mebibytes(counted)} with one task at a time: give more."
            )
    chunk = training.tasks - world.most(training.tasks - own, "the memory budget")
    predicted = counted if chunk == own else fit.bytes(chunk)
    console.print(
        f"memory: {config.memory.budget} asked for; {tasks} tasks in chunks of at most "
        f"{chunk}, predicted to take {mebibytes(predicted)} "
        f"({mebibytes(fit.fixed)} and {mebibytes(fit.per_task)} a task)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return config.replace(memory_budget=None, tasks_per_chunk=chunk)


def evaluation_bytes(training: Training, test: Sampler) -> int:
    """Peak live tensor bytes while validation or test episodes are answered, as `accuracy` does."""
    resident = [*training.model.parameters(), *_resident(training, test)]
    together = min(TOGETHER, training.config.memory.tasks_per_chunk or TOGETHER)
    with LiveBytes(resident) as live:
        batch = test.largest().sample(0, together)
        training.preset.method.predict(training.model, batch)
    peak: int = live.peak
    return peak


def _resident(training: Training, *more: Sampler) -> list[Tensor]:
    """Images in memory; those that the host keeps mapped from a file are none of it."""
    samplers = (training.sampler, training.validation, *more)
    # Omniglot's turned images are a copy
    copied = training.config.data.name == "omniglot"
    return [s.pool.images for s in samplers if s.pool.target is None or copied]
