"""The main job: train the backbone by hypergradients, keep the best weights, test them."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from metalearn import provenance
from metalearn.backbones import Conv4
from metalearn.config import Protocol, TrainConfig
from metalearn.curves import draw_curves
from metalearn.data import Pool, Split, glyph_pool
from metalearn.episodes import Episodes, Sampler
from metalearn.errors import NotFiniteError
from metalearn.evaluate import Accuracy, accuracy
from metalearn.evidence import Evidence
from metalearn.head import cross_entropy
from metalearn.learner import Learner
from metalearn.progress import Display
from metalearn.result import EVALUATION_SEED, Result, stated
from metalearn.run import Run

# Upper steps between readings of the loss: each waits for the device.
_LOOK_EVERY: Final = 10


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


@dataclass(frozen=True, slots=True)
class _Best:
    """The best validation so far, and the weights that had it."""

    validation: Accuracy
    step: int
    weights: dict[str, Tensor]


class _Training:
    """The state of one training run between its upper steps."""

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
        self.losses: list[Float[Tensor, ""]] = []
        self.best: _Best | None = None

    def advance(self, step: int) -> None:
        """Take upper step number `step`, counted from 1."""
        tasks = self.config.tasks_per_step
        batch = self.episodes.sample((step - 1) * tasks, tasks)
        self.losses.append(upper_step(self.learner, self.optimiser, batch, watch=self.evidence))
        self.schedule.step()

    def look(self, step: int, since: int) -> dict[str, float]:
        """Loss and certificate of the last `since` upper steps.

        Raises:
            NotFiniteError: one of them is NaN or infinite.
        """
        loss = torch.stack(self.losses[-since:]).mean().item()
        found = {"loss": loss} | self.evidence.last(since)
        for name, value in found.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"the {name} is {value} at upper step {step}: lower the learning rate "
                    f"({self.config.learning_rate}). The run folder keeps the settings, the "
                    "metrics and the weights of the best validation so far."
                )
        return found

    def validate(self, step: int) -> Accuracy:
        """Accuracy on the validation episodes; if it is the best so far, `best` is this step."""
        found = accuracy(self.learner, self.validation, self.config.validation_episodes)
        if self.best is None or found.mean > self.best.validation.mean:
            state = self.learner.backbone.state_dict()
            weights = {name: weight.detach().cpu().clone() for name, weight in state.items()}
            self.best = _Best(found, step, weights)
        return found


def train(config: TrainConfig, *, console: Console) -> Run:
    """Train, validate and test; everything is left in the run folder.

    Raises:
        MetalearnError: a setting, the data or the folder can't be used, or the loss is not finite.
        hypergrad.HypergradError: the lower level, or the adjoint on it, is not finite.
    """
    began = time.monotonic()
    torch.set_num_threads(config.threads)
    device = config.place()
    # Recorded as what it was: a test elsewhere mustn't take auto for another device.
    config = dataclasses.replace(config, device="cuda" if device.type == "cuda" else "cpu")
    # The code that runs is that of now, whatever its files are when the run ends.
    origin = provenance.commit()
    # What can be refused is, before a folder is made and before, not after, training.
    test = evaluation_sampler("test", config, device=device)
    training = _Training(config, device)
    run = Run.begin(config)
    display = Display(console, config.steps)
    display.say(f"glyphs, {config.test}; preset {config.preset}; {device}; in {run.folder}")
    with display.running(), closing(SummaryWriter(str(run.folder))) as board:
        last = 0
        for step in range(1, config.steps + 1):
            training.advance(step)
            done = step == config.steps
            validate = done or step % config.validate_every == 0
            if validate or step % _LOOK_EVERY == 0:
                display.update(step, training.look(step, min(_LOOK_EVERY, step)))
            if not validate:
                continue
            found = training.validate(step)
            if training.best is not None and training.best.step == step:
                run.write_weights(training.best.weights)
            metrics = training.look(step, step - last) | {
                "validation": found.mean,
                "validation_interval": found.interval,
            }
            last = step
            run.append_metrics({"step": step, "seconds": time.monotonic() - began} | metrics)
            for name, value in metrics.items():
                board.add_scalar(name, value, step)
            display.update(step, metrics)
    tested = _test(training, test)
    seconds = time.monotonic() - began
    run.write_result(_result(training, tested, run, origin=origin, seconds=seconds))
    draw_curves(run)
    display.say(training.evidence.verdict())
    display.say(
        f"test accuracy {tested} (95 % interval, {config.test_episodes} episodes, {config.test}, "
        f"normalisation {config.normalisation}, preset {config.preset})"
    )
    return run


def _test(training: _Training, test: Sampler) -> Accuracy:
    assert training.best is not None  # the last step always validates
    training.learner.backbone.load_state_dict(training.best.weights)
    return accuracy(training.learner, test, training.config.test_episodes)


def _result(
    training: _Training, tested: Accuracy, run: Run, *, origin: dict[str, Any], seconds: float
) -> Result:
    best = training.best
    assert best is not None
    return Result(
        accuracy=tested.mean,
        interval=tested.interval,
        **stated(training.config),
        certificate=training.evidence.summary(),
        validation=best.validation.mean,
        validation_interval=best.validation.interval,
        best_step=best.step,
        **origin,
        versions=provenance.versions(),
        device=provenance.device_name(training.device),
        peak_memory=provenance.peak_memory(training.device),
        seconds=seconds,
        parameters=sum(p.numel() for p in training.learner.backbone.parameters()),
        files=run.digests(),
        per_episode=tested.episodes.tolist(),
    )
