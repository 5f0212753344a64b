"""The state of one training run between its upper steps: taken forward, written down, put back."""

from __future__ import annotations

import math
import signal
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.config.train import TrainConfig
from metalearn.distributed import ALONE, World, exchanged
from metalearn.errors import ConfigError, NotFiniteError, RunError
from metalearn.methods import Method, Model, accumulate
from metalearn.methods.method import Watch
from metalearn.methods.overrides import numbers
from metalearn.tasks.episodes import Episodes, Undrawn
from metalearn.tasks.stream import ahead
from metalearn.testing.accuracy import Accuracy, accuracy
from metalearn.training.build import build_model, build_optimiser
from metalearn.training.certificates import Evidence
from metalearn.training.checkpoint import BestSoFar, Progress, RunKey
from metalearn.training.exhaustion import memory_named
from metalearn.training.failures import episodes_named
from metalearn.training.fitting import refuse_misfit
from metalearn.training.reference import exactness
from metalearn.training.samplers import evaluation_sampler, training_sampler

_GENERATORS: Final = "generator."


def upper_step(
    method: Method,
    model: Model,
    optimiser: torch.optim.Optimizer,
    episodes: Episodes | Undrawn,
    *,
    watch: Watch,
    tasks_per_chunk: int | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Float[Tensor, ""]:
    """One step on the method's loss: of each chunk one forward and one backward of the backbone.

    Returns:
        The loss before the step, on its device.

    Raises:
        hypergrad.NotFiniteError: the lower level, or the adjoint on it, is not finite.
    """
    optimiser.zero_grad(set_to_none=True)
    loss = accumulate(
        method, model, episodes, watch=watch, tasks_per_chunk=tasks_per_chunk, scaler=scaler
    )
    _descend(optimiser, scaler)
    return loss


def _descend(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is None:
        optimiser.step()
    else:
        scaler.step(optimiser)
        scaler.update()


def _refuse_ranks(world: World, tasks: int, config: TrainConfig) -> None:
    """Refuse ranks that would have nothing to do, or would do something else than one."""
    if world.size > tasks:
        raise ConfigError(
            f"{world.size} ranks were started for {tasks} tasks of an upper step: start at most "
            f"{tasks}, or give more --tasks-per-step."
        )
    chunks = config.memory.tasks_per_chunk is not None or config.memory.budget is not None
    if world.size > 1 and config.backbone.normalisation == "stored" and chunks:
        raise ConfigError(
            "normalisation stored was given with tasks_per_chunk, or a memory_budget, to several "
            "ranks: running averages move once for each chunk, so that chunks of several ranks "
            "would give others. Leave it out."
        )


def _mixed(seed: int, index: int) -> int:
    """One seed for torch's generator out of two numbers."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> 1)


@dataclass(slots=True)
class _Best:
    """The best validation so far, and the weights that had it."""

    found: BestSoFar
    weights: dict[str, Tensor]


class Training:
    """One run between its upper steps.

    Args:
        config: its settings.
        device: to run on.
        world: the ranks that share the tasks.

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
    ) -> None:
        self.config, self.device, self.world = config, device, world
        self.sampler = training_sampler(config, device=device)
        self.episodes = ahead(self.sampler, self._after)
        self.validation = evaluation_sampler("validation", config, device=device)
        self.configured = config.preset()
        self.method, self.tasks = self.configured.method, self.configured.tasks_per_step
        _refuse_ranks(world, self.tasks, config)
        self.model = build_model(config, self.episodes.pool, device=device)
        self.optimiser = build_optimiser(self.configured, self.model)
        schedules = torch.optim.lr_scheduler
        self.schedule: torch.optim.lr_scheduler.LRScheduler = (
            schedules.CosineAnnealingLR(self.optimiser, config.optimisation.steps)
            if self.configured.schedule == "cosine"
            else schedules.ConstantLR(self.optimiser, factor=1.0)
        )
        # float16's small gradients vanish unless the loss is scaled up
        scaled = config.backbone.precision == "float16"
        self.scaler = torch.amp.GradScaler(device.type) if scaled else None
        self.evidence = Evidence(
            steps=config.optimisation.steps,
            tasks=self.tasks,
            fixed_steps=numbers(self.method).K is not None,
            device=device,
        )
        self.losses = torch.zeros(config.optimisation.steps, device=device)
        self.step = self.validated = self.stale = 0
        self.best: _Best | None = None
        self.asked: signal.Signals | None = None

    @property
    def own(self) -> range:
        """This rank's part of the next upper step's tasks, as indices of episodes."""
        own = self.world.share(self.tasks)
        return range(self.step * self.tasks + own.start, self.step * self.tasks + own.stop)

    def _after(self, start: int, count: int) -> tuple[int, int]:
        """The episodes that this rank draws after these: its next chunk, of this step or the next.

        As (first, number of them), like the argument.
        """
        step, first = divmod(start, self.tasks)
        own, first = self.world.share(self.tasks), first + count
        if first >= own.stop:
            step, first = step + 1, own.start
        chunk = self.config.memory.tasks_per_chunk or len(own)
        return step * self.tasks + first, min(chunk, own.stop - first)

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
        if self.world.size == 1:
            self._advance_alone()
        else:
            self._advance_together(asked)
        self.schedule.step()
        self.step += 1

    def _advance_alone(self) -> None:
        seen = self.evidence.seen
        try:
            with memory_named(self.step + 1, self.config), self._named(self.own):
                loss = upper_step(
                    self.method,
                    self.model,
                    self.optimiser,
                    Undrawn(self.episodes, self.own.start, self.tasks),
                    watch=self.evidence,
                    tasks_per_chunk=self.config.memory.tasks_per_chunk,
                    scaler=self.scaler,
                )
        except Exception:
            self.evidence.seen = seen  # a step that was not taken has no certificates
            raise
        self.losses[self.step] = loss

    def _advance_together(self, asked: signal.Signals | None) -> None:
        # what a rank drops is its own and, like an episode, follows from the seed and the step
        torch.manual_seed(_mixed(self.config.run.seed, self.own.start))
        self.optimiser.zero_grad(set_to_none=True)

        def gradient() -> Tensor:
            with memory_named(self.step + 1, self.config):
                return accumulate(
                    self.method,
                    self.model,
                    Undrawn(self.episodes, self.own.start, len(self.own)),
                    watch=self.evidence,
                    tasks_per_chunk=self.config.memory.tasks_per_chunk,
                    scaler=self.scaler,
                )

        agreed = exchanged(
            self.world,
            gradient,
            self.model,
            self.evidence,
            named=self._named(self.own),
            asked=asked,
            scaled=self.scaler is not None,
            what=f"upper step {self.step + 1}",
        )
        _descend(self.optimiser, self.scaler)
        self.losses[self.step], self.asked = agreed.loss, agreed.asked

    def _named(self, episodes: range) -> AbstractContextManager[None]:
        return episodes_named(self.method, self.model, self.sampler, episodes, scaler=self.scaler)

    def look(self, since: int) -> dict[str, float]:
        """Mean loss and worst certificate of the last `since` upper steps.

        Raises:
            NotFiniteError: one of them is NaN or infinite.
        """
        first = max(0, self.step - since)
        losses = self.losses[first : self.step]
        if not bool(losses.isfinite().all()):
            at = first + int(losses.isfinite().logical_not().nonzero()[0])
            with self._named(range(at * self.tasks, (at + 1) * self.tasks)):
                raise NotFiniteError(
                    f"the loss is {self.losses[at].item()} at upper step {at + 1}: lower the "
                    f"learning rate ({self.configured.learning_rate})."
                )
        loss = losses.mean().item()
        found = {"loss": loss} | self.evidence.last(since)
        for name, value in found.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"the {name} is {value} at upper step {self.step}, of training episodes "
                    f"{self.evidence.not_finite(since)}: lower the learning rate "
                    f"({self.configured.learning_rate})."
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
            NotFiniteError: it is NaN or infinite.
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
    def done(self) -> bool:
        """Whether all steps are taken, or the best validation is too long ago."""
        upper = self.config.optimisation
        waited = upper.patience is not None and self.stale >= upper.patience
        return waited or self.step == upper.steps

    def state(
        self, *, key: RunKey, origin: dict[str, Any], metrics: int, seconds: float
    ) -> tuple[dict[str, Tensor], Progress]:
        """All that decides what comes next, as tensors and plain values; see `restore`.

        Args:
            key: what the state belongs to.
            origin: of the code, see `metalearn.runs.provenance`.
            metrics: lines written to the metrics.
            seconds: spent so far.
        """
        optimiser = self.optimiser.state_dict()
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for index, kept in optimiser["state"].items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in kept.items()}
        if self.best is not None:
            tensors |= {f"best.{k}": v for k, v in self.best.weights.items()}
        tensors |= {f"evidence.{k}": v for k, v in self.evidence.state().items()}
        tensors["losses"] = self.losses[: self.step]
        tensors[f"{_GENERATORS}cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors[f"{_GENERATORS}cuda"] = torch.cuda.get_rng_state(self.device)
        progress = Progress(
            key=key,
            origin=origin,
            step=self.step,
            seen=self.evidence.seen,
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
        """Go on from what `state` gave.

        Raises:
            RunError: it is not the state of a run with these settings.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

        kept: dict[int, dict[str, Any]] = {}
        try:
            refuse_misfit(
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
            self.evidence.restore(part("evidence"), progress.seen)
            self.losses[: progress.step] = tensors["losses"]
            torch.set_rng_state(tensors[f"{_GENERATORS}cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(tensors[f"{_GENERATORS}cuda"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"the checkpoint does not fit the run's settings: {error!r}.") from error
        self.step, self.validated, self.stale = progress.step, progress.validated, progress.stale
        if progress.best is not None:
            self.best = _Best(progress.best, part("best"))
