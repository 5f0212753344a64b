"""The state of one training run between its upper steps: taken forward, written down, put back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.augmentation import Augmentation, Photo
from metalearn.backbones import Conv4, ResNet12
from metalearn.checkpoint import BestSoFar, Progress, RunKey
from metalearn.config import Protocol, TrainConfig
from metalearn.data import (
    Identity,
    Pool,
    Split,
    glyph_pool,
    glyphs_identity,
    prepared_identity,
    prepared_pool,
)
from metalearn.episodes import GLYPH_JITTER, Episodes, Sampler, Undrawn
from metalearn.errors import ConfigError, NotFiniteError, RunError
from metalearn.evaluate import Accuracy, accuracy
from metalearn.evidence import Evidence
from metalearn.methods import Method, Model, accumulate
from metalearn.methods.adjust import numbers
from metalearn.methods.method import Watch
from metalearn.methods.model import HEAD
from metalearn.methods.presets import Preset
from metalearn.result import EVALUATION_SEED

_GENERATORS: Final = "generator."


def identity(config: TrainConfig) -> Identity:
    """The data of a run, checked.

    Raises:
        DataError: the images can't be rendered, read, or were changed since they were prepared.
    """
    if config.data == "glyphs":
        return glyphs_identity()
    return prepared_identity(config.data, root=config.data_root)


def training_sampler(config: TrainConfig, *, device: torch.device) -> Sampler:
    """The training episodes of a run.

    Raises:
        EpisodeError: the split has too few classes or images.
        DataError: the images can't be rendered or read.
    """
    return _sampler("train", config.train, config, seed=config.seed, device=device)


def evaluation_sampler(split: Split, config: TrainConfig, *, device: torch.device) -> Sampler:
    """The validation or test episodes of a run; see `training_sampler`."""
    return _sampler(split, config.test, config, seed=EVALUATION_SEED, device=device)


def _sampler(
    split: Split, protocol: Protocol, config: TrainConfig, *, seed: int, device: torch.device
) -> Sampler:
    augmentation: Augmentation | None = None
    if config.data == "glyphs":
        pool, augmentation = glyph_pool(split, device=device), GLYPH_JITTER
    else:
        pool = prepared_pool(
            config.data, split, root=config.data_root, device=device, residency=config.residency
        )
        if config.data == "omniglot":
            pool = pool.rotated()
        elif config.augment and split == "train":
            # as published: 8 pixels for 84, 4 for 32
            augmentation = Photo(padding=8 if pool.images.shape[-1] >= 80 else 4)
    return Sampler(
        pool=pool,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=seed,
        augmentation=augmentation,
    )


def build_model(config: TrainConfig, pool: Pool, *, device: torch.device) -> Model:
    """The model for a pool's images; its initial weights depend on the seed, not the device.

    Raises:
        ConfigError: backbone and images, or method and protocol, don't go together.
    """
    channels, size = pool.images.shape[2], pool.images.shape[-1]
    generator = torch.Generator().manual_seed(config.seed)
    backbone: Conv4 | ResNet12
    if config.backbone == "resnet12":
        backbone = ResNet12(
            channels=channels,
            size=size,
            normalisation=config.normalisation,
            drop_rate=config.drop_rate,
            block=5 if size >= 80 else 2,  # as published for 84 and for 32 pixels
            recompute=config.recompute,
            generator=generator,
        )
    else:
        backbone = Conv4(
            filters=config.filters if config.backbone == "conv4" else (96, 192, 384, 512),
            channels=channels,
            size=size,
            normalisation=config.normalisation,
            recompute=config.recompute,
            generator=generator,
        )
    method = config.subject
    own = method.variables(features=backbone.features, way=config.train.way, generator=generator)
    if HEAD in own and config.train.way != config.test.way:
        raise ConfigError(
            f"method {config.method} learns an initial head for {config.train.way} classes, but "
            f"is tested with {config.test.way}: give --train.way {config.test.way}."
        )
    model = Model(backbone, own, precision=config.precision, streamed=config.streamed).to(device)
    if config.channels_last:
        for weight in model.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model


def build_optimiser(configured: Preset, model: Model) -> torch.optim.Optimizer:
    """The optimiser of the upper step."""
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[configured.optimiser]
    made: torch.optim.Optimizer = kind(model.parameters(), lr=configured.learning_rate)
    return made


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
    if scaler is None:
        optimiser.step()
    else:
        scaler.step(optimiser)
        scaler.update()
    return loss


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

    Attributes:
        step: upper steps taken.
        validated: the upper step of the last validation.
        stale: validations since the best.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.episodes = training_sampler(config, device=device)
        self.validation = evaluation_sampler("validation", config, device=device)
        self.configured = config.configured()
        self.method, self.tasks = self.configured.method, self.configured.tasks_per_step
        self.model = build_model(config, self.episodes.pool, device=device)
        self.optimiser = build_optimiser(self.configured, self.model)
        schedules = torch.optim.lr_scheduler
        self.schedule: torch.optim.lr_scheduler.LRScheduler = (
            schedules.CosineAnnealingLR(self.optimiser, config.steps)
            if self.configured.schedule == "cosine"
            else schedules.ConstantLR(self.optimiser, factor=1.0)
        )
        # float16's small gradients vanish unless the loss is scaled up
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "float16" else None
        self.evidence = Evidence(
            steps=config.steps,
            tasks=self.tasks,
            fixed_steps=numbers(self.method).K is not None,
            device=device,
        )
        self.losses = torch.zeros(config.steps, device=device)
        self.step = self.validated = self.stale = 0
        self.best: _Best | None = None

    def advance(self) -> None:
        """Take the next upper step.

        Raises:
            hypergrad.NotFiniteError: the lower level, or the adjoint on it, is not finite.
        """
        batch, seen = Undrawn(self.episodes, self.step * self.tasks, self.tasks), self.evidence.seen
        try:
            loss = upper_step(
                self.method,
                self.model,
                self.optimiser,
                batch,
                watch=self.evidence,
                tasks_per_chunk=self.config.tasks_per_chunk,
                scaler=self.scaler,
            )
        except Exception:
            self.evidence.seen = seen  # a step that was not taken has no certificates
            raise
        self.losses[self.step] = loss
        self.schedule.step()
        self.step += 1

    def look(self, since: int) -> dict[str, float]:
        """Mean loss and worst certificate of the last `since` upper steps.

        Raises:
            NotFiniteError: one of them is NaN or infinite.
        """
        loss = self.losses[max(0, self.step - since) : self.step].mean().item()
        found = {"loss": loss} | self.evidence.last(since)
        for name, value in found.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"the {name} is {value} at upper step {self.step}: lower the learning rate "
                    f"({self.configured.learning_rate})."
                )
        return found

    def validate(self) -> Accuracy:
        """Accuracy on the validation episodes; if it is the best so far, `best` is this step."""
        found = accuracy(self.method, self.model, self.validation, self.config.validation_episodes)
        self.validated = self.step
        self.stale += 1
        if self.best is None or found.mean > self.best.found.mean:
            state = self.model.state_dict()
            weights = {name: weight.detach().cpu().clone() for name, weight in state.items()}
            best = BestSoFar(mean=found.mean, interval=found.interval, step=self.step)
            self.best, self.stale = _Best(best, weights), 0
        return found

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the best validation is too long ago."""
        patience = self.config.patience
        return self.step == self.config.steps or (patience is not None and self.stale >= patience)

    def state(
        self, *, key: RunKey, origin: dict[str, Any], metrics: int, seconds: float
    ) -> tuple[dict[str, Tensor], Progress]:
        """All that decides what comes next, as tensors and plain values; see `restore`.

        Args:
            key: what the state belongs to.
            origin: of the code, see `metalearn.provenance`.
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
        for name, tensor in part("optimiser").items():
            index, key = name.split(".", 1)
            kept.setdefault(int(index), {})[key] = tensor
        try:
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
