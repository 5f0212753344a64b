"""The state of one training run between its upper steps: taken forward, written down, put back."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from metalearn.backbones import PerTask, Source
from metalearn.config.train import TrainConfig
from metalearn.distributed import ALONE, World
from metalearn.errors import ConfigError, NotFiniteError, RunError
from metalearn.methods import Model
from metalearn.methods.overrides import numbers
from metalearn.runs.card import Card
from metalearn.tasks.episodes import Episodes, chunked
from metalearn.tasks.stream import drawn
from metalearn.testing.accuracy import Accuracy, accuracy
from metalearn.training.build import (
    build_model,
    build_optimiser,
    evaluation_sampler,
    training_sampler,
)
from metalearn.training.certificates import Certificates
from metalearn.training.checkpoint import BestSoFar, Progress, RunKey, require_fit
from metalearn.training.exchange import exchanged
from metalearn.training.failures import episodes_named, memory_named
from metalearn.training.features import featured
from metalearn.training.reference import exactness
from metalearn.training.step import accumulate, descend, upper_step

_GENERATORS: Final = "generator."


def _require_fitting_ranks(world: World, tasks: int, config: TrainConfig) -> None:
    """Raise if a rank would have nothing to do, or several would do other than one."""
    if world.size > tasks:
        raise ConfigError(
            f"{world.size} ranks were started for {tasks} tasks of an upper step: start at most "
            f"{tasks}, or give more --tasks-per-step."
        )
    if world.size > 1 and config.optimisation.seconds is not None:
        raise ConfigError(
            f"seconds {config.optimisation.seconds:g} was given to {world.size} ranks, whose "
            "clocks differ: give --steps."
        )
    chunks = config.memory.tasks_per_chunk is not None or config.memory.budget is not None
    if world.size > 1 and config.preset().normalisation == "stored" and chunks:
        raise ConfigError(
            "tasks_per_chunk, or a memory_budget, was given to several ranks with normalisation "
            "stored: running averages move once for each chunk, so that chunks of several ranks "
            "would give others. Leave it out, or give --normalisation transductive or group."
        )


def _require_one_rank(world: World, model: Model) -> None:
    """Raise if several ranks would move running statistics otherwise than one."""
    backbone = model.backbone
    if world.size > 1 and isinstance(backbone, PerTask) and backbone.stores:
        raise ConfigError(
            f"{world.size} ranks were started for a backbone of your own with normalisation "
            "stored, whose running statistics move task by task, in order: start one rank, or give "
            "--normalisation transductive."
        )


def _mixed(seed: int, index: int) -> int:
    """One seed for torch's generator out of two numbers."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


@dataclass(slots=True, eq=False)
class _Best:
    """The best validation so far, and the weights that had it."""

    found: BestSoFar
    weights: dict[str, Tensor]


class Training:
    """One run between its upper steps.

    Args:
        config: the run's settings.
        device: runs the upper steps.
        world: the ranks that share the tasks.
        source: the backbone, if the settings name one that is not built in.

    Attributes:
        sampler: draws the training episodes.
        step: upper steps taken.
        validated: the upper step of the last validation.
        stale: validations since the best.
        asked: the signal that one of several ranks was sent, as all of them know it.

    Raises:
        ConfigError: a setting can't work, alone or with so many ranks.
    """

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        world: World = ALONE,
        *,
        source: Source | None = None,
    ) -> None:
        self.config, self.device, self.world = config, device, world
        pictures = self._pictures = training_sampler(config, device=device)
        self.validation = evaluation_sampler("validation", config, device=device)
        self.preset = config.preset()
        self.method, self.tasks = self.preset.method, self.preset.tasks_per_step
        _require_fitting_ranks(world, self.tasks, config)
        self.model = build_model(config, pictures.pool, device=device, source=source)
        self.sampler = featured(pictures, self.model, config)
        self.validation = featured(self.validation, self.model, config)
        _require_one_rank(world, self.model)
        self.optimiser = build_optimiser(self.preset, self.model)
        schedules = torch.optim.lr_scheduler
        self.schedule: torch.optim.lr_scheduler.LRScheduler = (
            schedules.CosineAnnealingLR(self.optimiser, config.optimisation.steps)
            if self.preset.schedule == "cosine" and config.optimisation.steps > 0
            else schedules.ConstantLR(self.optimiser, factor=1.0)
        )
        # float16's small gradients vanish unless the loss is scaled up
        scaled = config.backbone.precision == "float16"
        self.scaler = torch.amp.GradScaler(device.type) if scaled else None
        self.certificates = Certificates(
            steps=config.optimisation.steps,
            tasks=self.tasks,
            fixed_steps=numbers(self.method).K is not None,
            device=device,
        )
        self.losses = torch.zeros(config.optimisation.steps, device=device)
        self.step = self.validated = self.stale = 0
        self.best: _Best | None = None
        self.asked: signal.Signals | None = None
        self._stream: Iterator[Episodes] | None = None

    @property
    def own(self) -> range:
        """Indices of this rank's episodes in the next upper step."""
        return self._own_at(self.step)

    def _own_at(self, step: int) -> range:
        own = self.world.share(self.tasks)
        return range(step * self.tasks + own.start, step * self.tasks + own.stop)

    def _chunks(self) -> Iterator[Episodes]:
        """This rank's episodes of the next upper step.

        They come from one stream over all steps that are left, so that the first chunk of a step
        can be drawn while the last of the step before is used.
        """
        size = self.config.memory.tasks_per_chunk or self.tasks
        if self._stream is None:
            steps = map(self._own_at, range(self.step, self.config.optimisation.steps))
            indices = itertools.chain.from_iterable(chunked(own, size) for own in steps)
            self._stream = drawn(self.sampler, indices)
        return itertools.islice(self._stream, len(range(0, len(self.own), size)))

    def advance(self, asked: signal.Signals | None = None) -> None:
        """Take the next upper step.

        Args:
            asked: the signal that this rank was sent, to be known to all ranks as `self.asked`.

        Raises:
            NotFiniteError: the lower level, or the adjoint on it, is not finite; of which episodes.
            MemoryExhaustedError: the tasks need more memory than there is.
            RankError: on all of several ranks, what one of them would have raised.
            LostRankError: a rank hangs or is gone.
        """
        seen = self.certificates.seen
        try:
            if self.world.size == 1:
                with memory_named(self.step + 1, self.config), self._named(self.own):
                    loss = upper_step(
                        self.method,
                        self.model,
                        self.optimiser,
                        self._chunks(),
                        tasks=self.tasks,
                        watch=self.certificates,
                        scaler=self.scaler,
                    )
            else:
                loss = self._upper_step_of_ranks(asked)
        except Exception:
            # A step that was not taken has no certificates, and its episodes come again.
            self.certificates.seen, self._stream = seen, None
            raise
        self.losses[self.step] = loss
        self.schedule.step()
        self.step += 1

    def _upper_step_of_ranks(self, asked: signal.Signals | None) -> Tensor:
        # what a rank drops is its own and, like an episode, follows from the seed and the step
        torch.manual_seed(_mixed(self.config.run.seed, self.own.start))
        self.optimiser.zero_grad(set_to_none=True)

        def gradient() -> Tensor:
            with memory_named(self.step + 1, self.config):
                return accumulate(
                    self.method,
                    self.model,
                    self._chunks(),
                    tasks=len(self.own),
                    watch=self.certificates,
                    scaler=self.scaler,
                )

        agreed = exchanged(
            self.world,
            gradient,
            self.model,
            self.certificates,
            named=self._named(self.own),
            asked=asked,
            scaled=self.scaler is not None,
            what=f"upper step {self.step + 1}",
        )
        descend(self.optimiser, self.scaler)
        self.asked = agreed.asked
        return agreed.loss

    def _named(self, episodes: range) -> AbstractContextManager[None]:
        return episodes_named(self.method, self.model, self.sampler, episodes, scaler=self.scaler)

    def look(self, since: int) -> dict[str, float]:
        """Mean loss and worst certificate of the last `since` upper steps.

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        first = max(0, self.step - since)
        losses = self.losses[first : self.step]
        if not bool(losses.isfinite().all()):
            at = first + int(losses.isfinite().logical_not().nonzero()[0])
            with self._named(range(at * self.tasks, (at + 1) * self.tasks)):
                raise NotFiniteError(
                    f"the loss is {self.losses[at].item()} at upper step {at + 1}: lower the "
                    f"learning rate ({self.preset.learning_rate})."
                )
        loss = losses.mean().item()
        found = {"loss": loss} | self.certificates.last(since)
        for name, value in found.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"the {name} is {value} at upper step {self.step}, of training episodes "
                    f"{self.certificates.not_finite(since)}: lower the learning rate "
                    f"({self.preset.learning_rate})."
                )
        return found

    def validate(self) -> Accuracy:
        """Accuracy on the validation episodes; if it is the best so far, `best` is this step."""
        found = accuracy(
            self.method,
            self.model,
            self.validation,
            self.config.evaluation.validation_episodes,
            tasks_per_chunk=self.config.memory.tasks_per_chunk,
            world=self.world,
        )
        self.validated = self.step
        self.stale += 1
        if self.best is None or found.mean > self.best.found.mean:
            state = self.model.state_dict()
            weights = {name: weight.detach().cpu().clone() for name, weight in state.items()}
            best = BestSoFar(mean=found.mean, interval=found.interval, step=self.step)
            self.best, self.stale = _Best(best, weights), 0
        return found

    def exactness(self) -> dict[str, float]:
        """The hypergradient's distance from the exact one, on tasks that are never trained on.

        Empty where it is not asked for, or not defined; see `metalearn.training.reference`.

        Raises:
            NotFiniteError: the value is NaN or infinite.
            MemoryExhaustedError: in float64 the tasks need more memory than there is.
        """
        if not self.config.evaluation.hypergradient_error:
            return {}
        batch = self.sampler.sample(self.config.optimisation.steps * self.tasks, self.tasks)
        chunk = self.config.memory.tasks_per_chunk or len(self.own)
        with memory_named(self.step, self.config):
            found = exactness(self.method, self.model, batch, tasks_per_chunk=chunk)
        if found is None:
            return {}
        if not (math.isfinite(found.error) and math.isfinite(found.cosine)):
            raise NotFiniteError(
                f"the hypergradient's distance from the exact one is {found.error}, its cosine "
                f"{found.cosine}, after upper step {self.step}: one of the two is zero, NaN or "
                "infinite."
            )
        return {"hypergradient_error": found.error, "hypergradient_cosine": found.cosine}

    @property
    def card(self) -> Card:
        """Card of the weights."""
        return Card.of(self.config, self._pictures.pool)

    @property
    def done(self) -> bool:
        """All steps are taken, or the best validation is too long ago."""
        upper = self.config.optimisation
        waited = upper.patience is not None and self.stale >= upper.patience
        return waited or self.step == upper.steps

    def state(
        self, *, key: RunKey, origin: dict[str, Any], metrics: int, seconds: float
    ) -> tuple[dict[str, Tensor], Progress]:
        """The complete state, as tensors and plain values, for `restore`.

        Args:
            key: identity of the run.
            origin: version of the code, see `metalearn.runs.provenance`.
            metrics: lines written to the metrics.
            seconds: spent so far.
        """
        optimiser = self.optimiser.state_dict()
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, kept in optimiser["state"].items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in kept.items()}
        if self.best is not None:
            tensors |= {f"best.{k}": v for k, v in self.best.weights.items()}
        tensors |= {f"certificates.{k}": v for k, v in self.certificates.state().items()}
        tensors["losses"] = self.losses[: self.step]
        tensors[f"{_GENERATORS}cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors[f"{_GENERATORS}cuda"] = torch.cuda.get_rng_state(self.device)
        progress = Progress(
            key=key,
            origin=origin,
            step=self.step,
            seen=self.certificates.seen,
            metrics=metrics,
            validated=self.validated,
            stale=self.stale,
            seconds=seconds,
            best=None if self.best is None else self.best.found,
            optimiser=optimiser["param_groups"],
            schedule=self.schedule.state_dict(),
            scaler={} if self.scaler is None else self.scaler.state_dict(),
        )
        return tensors, progress

    def restore(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Put back what `state` returned.

        Raises:
            RunError: the state is that of a run with other settings.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

        kept: dict[int, dict[str, Any]] = {}
        try:
            require_fit(
                tensors,
                progress,
                model=self.model,
                optimiser=self.optimiser,
                schedule=self.schedule,
                scaler={} if self.scaler is None else self.scaler.state_dict(),
                steps=self.config.optimisation.steps,
                tasks=self.tasks,
            )
            for name, tensor in part("optimiser").items():
                index, key = name.split(".", 1)
                kept.setdefault(int(index), {})[key] = tensor
            self.model.load_state_dict(part("model"))
            self.optimiser.load_state_dict({"state": kept, "param_groups": progress.optimiser})
            self.schedule.load_state_dict(progress.schedule)
            if self.scaler is not None:
                self.scaler.load_state_dict(progress.scaler)
            self.certificates.restore(part("certificates"), progress.seen)
            self.losses[: progress.step] = tensors["losses"]
            torch.set_rng_state(tensors[f"{_GENERATORS}cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(tensors[f"{_GENERATORS}cuda"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"the checkpoint does not fit the run's settings: {error!r}.") from error
        self.step, self.validated, self.stale = progress.step, progress.validated, progress.stale
        self._stream = None
        if progress.best is not None:
            self.best = _Best(progress.best, part("best"))
