"""The state of one training run between its upper steps: taken forward, written down, put back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.backbones import Conv4
from metalearn.checkpoint import BestSoFar, Progress
from metalearn.config import Protocol, TrainConfig
from metalearn.data import Pool, Split, glyph_pool
from metalearn.episodes import Episodes, Sampler
from metalearn.errors import NotFiniteError, RunError
from metalearn.evaluate import Accuracy, accuracy
from metalearn.evidence import Evidence
from metalearn.head import cross_entropy
from metalearn.learner import Learner
from metalearn.result import EVALUATION_SEED

_GENERATORS: Final = "generator."


def sampler(split: Split, protocol: Protocol, *, seed: int, device: torch.device) -> Sampler:
    """Episodes of one split of the glyphs.

    Raises:
        EpisodeError: the split has too few classes or images.
        DataError: the glyphs can't be rendered or cached.
    """
    pool = glyph_pool(split, device=device)
    return Sampler(pool=pool, way=protocol.way, shot=protocol.shot, query=protocol.query, seed=seed)


def evaluation_sampler(split: Split, config: TrainConfig, *, device: torch.device) -> Sampler:
    """The validation or test episodes of a run."""
    return sampler(split, config.test, seed=EVALUATION_SEED, device=device)


def build_learner(config: TrainConfig, pool: Pool, *, device: torch.device) -> Learner:
    """The learner for a pool's images; its initial weights depend on the seed, not the device."""
    backbone = Conv4(
        filters=config.filters,
        channels=pool.images.shape[2],
        size=pool.images.shape[-1],
        normalisation=config.normalisation,
        generator=torch.Generator().manual_seed(config.seed),
    )
    return Learner(backbone=backbone.to(device), l2=config.l2, lower=config.lower())


def upper_step(
    learner: Learner, optimiser: torch.optim.Optimizer, episodes: Episodes, *, watch: Evidence
) -> Float[Tensor, ""]:
    """One step on the mean query loss of the tasks: one forward, one backward of the backbone.

    Returns:
        The loss before the step, on its device.

    Raises:
        hypergrad.NotFiniteError: the lower level, or the adjoint on it, is not finite.
    """
    optimiser.zero_grad(set_to_none=True)
    loss = cross_entropy(learner.answer(episodes, watch=watch), episodes.query_labels).mean()
    torch.autograd.backward(loss)
    optimiser.step()
    return loss.detach()


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
        self.episodes = sampler("train", config.train, seed=config.seed, device=device)
        self.validation = evaluation_sampler("validation", config, device=device)
        self.learner = build_learner(config, self.episodes.pool, device=device)
        self.optimiser = torch.optim.Adam(
            self.learner.backbone.parameters(), lr=config.learning_rate
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, config.steps)
        self.evidence = Evidence(
            steps=config.steps,
            tasks=config.tasks_per_step,
            fixed_steps=config.preset == "paper",
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
        tasks = self.config.tasks_per_step
        batch = self.episodes.sample(self.step * tasks, tasks)
        loss = upper_step(self.learner, self.optimiser, batch, watch=self.evidence)
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
                    f"({self.config.learning_rate})."
                )
        return found

    def validate(self) -> Accuracy:
        """Accuracy on the validation episodes; if it is the best so far, `best` is this step."""
        found = accuracy(self.learner, self.validation, self.config.validation_episodes)
        self.validated = self.step
        self.stale += 1
        if self.best is None or found.mean > self.best.found.mean:
            state = self.learner.backbone.state_dict()
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
        self, *, config: str, metrics: int, seconds: float
    ) -> tuple[dict[str, Tensor], Progress]:
        """All that decides what comes next, as tensors and plain values; see `restore`.

        Args:
            config: SHA-256 of the settings.
            metrics: lines written to the metrics.
            seconds: spent so far.
        """
        optimiser = self.optimiser.state_dict()
        tensors = {f"backbone.{k}": v for k, v in self.learner.backbone.state_dict().items()}
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
            config=config,
            step=self.step,
            seen=self.evidence.seen,
            metrics=metrics,
            validated=self.validated,
            stale=self.stale,
            seconds=seconds,
            best=None if self.best is None else self.best.found,
            optimiser=optimiser["param_groups"],
            schedule=self.schedule.state_dict(),
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
            self.learner.backbone.load_state_dict(part("backbone"))
            self.optimiser.load_state_dict({"state": kept, "param_groups": progress.optimiser})
            self.schedule.load_state_dict(progress.schedule)
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
