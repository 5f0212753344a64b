"""The main job: train the backbone by hypergradients, keep the best weights, test them."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from hypergrad.errors import HypergradError
from metalearn.backbones.source import Source, imported, name_of, require_confirmed
from metalearn.config.choices import Device
from metalearn.config.groups import normalised
from metalearn.config.train import TrainConfig, to_json
from metalearn.distributed import World, joined, launched, restarted
from metalearn.errors import (
    ConfigError,
    MemoryExhaustedError,
    NotFiniteError,
    RankError,
    RunError,
    Stopped,
)
from metalearn.methods.overrides import describe
from metalearn.runs import provenance
from metalearn.runs.curves import draw_curves
from metalearn.runs.folder import Run
from metalearn.runs.trackers import Tracker, require_package, tracker
from metalearn.testing.accuracy import Accuracy, accuracy
from metalearn.training import checkpoint
from metalearn.training.budget import predicted_bytes, within_budget
from metalearn.training.build import evaluation_sampler, identity, recorded
from metalearn.training.checkpoint import RunKey, require_same_run
from metalearn.training.dry_run import say_plan
from metalearn.training.features import featured
from metalearn.training.outcome import result
from metalearn.training.progress import Display
from metalearn.training.signals import Stop
from metalearn.training.start import from_weights
from metalearn.training.state import Training

# Upper steps between readings of the loss: each waits for the device.
_LOOK_EVERY: Final = 10


def train(
    config: TrainConfig, *, backbone: Source | None = None, console: Console | None = None
) -> None:
    """Train, validate and test, or resume a stopped run; all results are in its folder.

    Under torchrun the tasks of each step are shared by the ranks. Since a launcher that starts them
    again does so by the same command, a run that it finds begun under the same settings is gone on
    with, and a restart that finds it finished has nothing to do.

    Args:
        config: settings of the run.
        backbone: a module from images (N, C, H, W) to features (N, D), or a function that makes
            one, in place of the backbone that the settings name. A module stays as it is: a copy is
            trained.
        console: console that prints progress; None: the terminal.

    Raises:
        MetalearnError: a setting, the data or the folder can't be used; or a step is not finite.
        Stopped: by SIGINT or SIGTERM, with the state saved.
        RankError: on all of several ranks, what one of them raised.
        LostRankError: a rank hangs or is gone.
        hypergrad.errors.HypergradError: the lower level, or the adjoint on it, can't be used.
    """
    console = console or Console()
    if backbone is not None:
        config = config.replace(backbone=name_of(backbone))
    again: Run | None = None
    if config.run.resume is not None:
        config.require_nothing_with_resume()
        again = Run(config.run.resume)
        if again.finished and not restarted():
            raise RunError(f"{again.folder} is finished: there is nothing to resume.")
        named, config = config.backbone.name, again.config()
        require_confirmed(config.backbone.name, named)
    elif launched() and not config.run.dry_run:
        _require_folder(config)
    source = backbone or imported(config.backbone.name)
    config, source = from_weights(config, source, again)
    torch.set_num_threads(config.run.threads)
    with joined(config.place()) as (world, device):
        with world.together("the start"):
            job = _Job.of(config, device, world, console, source)
        folder = None if config.run.dry_run else config.run.folder
        if again is None and launched() and folder is not None:
            again = job.begun(Run(folder))
        job.settle(console if world.leads else Console(quiet=True))
        if config.run.dry_run:
            if world.leads:
                say_plan(job.training, job.test, console=console)
        elif again is None:
            job.begin()
        elif again.finished:
            job.display.say(f"{again.folder} is finished: there is nothing left to do")
        else:
            job.go_on(again)


def _require_folder(config: TrainConfig) -> None:
    """A launcher that starts a run again must find its folder again."""
    if config.run.folder is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise ConfigError(
            "restarts were asked for without --run: a restart could not find the run's folder, "
            "whose usual name is the time. Give --run."
        )


class _Job:
    """One process's part in a run.

    Args:
        config: settings of the run.
        device: they lead to.
        world: the ranks that share its tasks.
        console: for messages.
        source: the backbone, if it is not built in.
    """

    def __init__(
        self,
        config: TrainConfig,
        device: torch.device,
        world: World,
        console: Console,
        source: Source | None,
    ) -> None:
        self.config, self.device, self.world = config, device, world
        # The code that runs is that of now, whatever its files are when the run ends.
        self.origin = provenance.commit()
        # What can be refused is, before a folder is made and before, not after, training.
        require_package(config.run.tracker)
        self.data = identity(config)
        self.test = evaluation_sampler("test", config, device=device)
        self.training = Training(config, device, world, source=source)
        self.test = featured(self.test, self.training.model, config)
        self.initial = checkpoint.digest(self.training.model).hex()
        self.step_bytes = self.metrics = 0
        self.display = Display(console, config.optimisation.steps)
        self.seconds_before, self.began = 0.0, time.monotonic()

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        device: torch.device,
        world: World,
        console: Console,
        source: Source | None = None,
    ) -> _Job:
        torch.manual_seed(config.run.seed)
        # Recorded as what they were: elsewhere or later they may be chosen otherwise.
        recorded: Device = "cuda" if device.type == "cuda" else "cpu"
        chosen = config.replace(device=recorded, normalisation=config.preset().normalisation)
        return cls(chosen, device, world, console if world.leads else Console(quiet=True), source)

    def settle(self, console: Console) -> None:
        """Find the chunks that a budget leads to, and count the bytes of an upper step."""
        # Recorded as what it came to: another count elsewhere mustn't lead to other chunks.
        self.config = self.training.config = within_budget(self.training, console=console)
        with self.world.together("counting the bytes of an upper step"):
            self.step_bytes = predicted_bytes(self.training)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def seconds(self) -> float:
        """Spent on the run, in this process and in those before."""
        return self.seconds_before + time.monotonic() - self.began

    def begun(self, run: Run) -> Run | None:
        """The run, if what its folder holds was begun under these settings."""
        with self.world.together("opening the run folder"):
            recorded = run.config() if run.begun else None
        if recorded is None or not recorded.answers(self.config):
            return None
        self.config = self.training.config = recorded
        return run

    def begin(self) -> None:
        """A new run."""
        folder = ""
        with self.world.together("making the run folder"):
            if self.world.leads:
                run = Run.begin(self.config)
                versions = provenance.versions()
                run.log("started", **self.origin, versions=versions, initial_weights=self.initial)
                folder = str(run.folder)
        self._run(Run(Path(self.world.text_of(folder, 0, "the name of the run folder"))))

    def go_on(self, run: Run) -> None:
        """The rest of a run, from its last checkpoint; from the start if it has none."""
        with self.world.together("reading the checkpoint"):
            if run.checkpoint.exists():
                tensors, progress = checkpoint.load(run.checkpoint)
                require_same_run(run.checkpoint, progress.key, self._key(run), self.config)
                self.training.restore(tensors, progress)
                self.seconds_before, self.metrics = progress.seconds, progress.metrics
                self.origin = provenance.joined(progress.origin, self.origin)
                self.display.start(self.training.step)

        def tidy() -> None:
            run.sweep()
            if self.training.best is not None:
                run.write_weights(self.training.best.weights, self.training.card)
            run.keep_metrics(self.metrics)
            origin = self.origin | {"versions": provenance.versions()}
            run.log("resumed", step=self.training.step, **origin)

        self._lead("going on with the run folder", tidy)
        self.display.say(f"resuming {run.folder} after {self.training.step} upper steps")
        self._run(run)

    def _key(self, run: Run) -> RunKey:
        return RunKey(
            config=run.config_digest(),
            configured=describe(self.training.preset),
            backbone=recorded(self.config, self.training.model)["backbone"],
            data=self.data.sha256,
        )

    def _lead(self, what: str, write: Callable[[], None]) -> None:
        """Write on the leading rank; what that raises is raised on all."""
        with self.world.together(what):
            if self.world.leads:
                write()

    def _run(self, run: Run) -> None:
        config, training, world = self.config, self.training, self.world
        world.same(self._fingerprint(), "settings, data, code or step")
        ranks = f"{world.size} ranks, " if world.size > 1 else ""
        self.display.say(
            f"{config.data.name}, {config.test}; method {config.method.name}; {ranks}"
            f"{self.device}; in {run.folder}"
        )
        board = tracker(
            config.run.tracker if world.leads else "none",
            run.folder,
            step=training.step,
            settings=to_json(self.config),
        )
        with self.display.running(), closing(board), Stop() as stop:
            while not training.done and self.seconds < (config.optimisation.seconds or math.inf):
                self._advance(run, board, stop)
                self._stop_if(stop.asked if world.size == 1 else training.asked, run)
            if training.best is None or training.validated < training.step:
                self._validate(run, board)  # no step was asked for, or the time was up
            self._save(run)
            tested = self._test(lambda: self._stop_if(self._agreed(stop), run))
        self._lead("writing the result", lambda: self._finish(run, tested))

    def _finish(self, run: Run, tested: Accuracy) -> None:
        config, training = self.config, self.training
        if (now := identity(config)) != self.data:
            raise RunError(
                f"the data changed while the run lasted: SHA-256 {self.data.sha256} at its start, "
                f"{now.sha256} now. No result is written; put the data back, then --resume."
            )
        run.write_result(
            result(
                training,
                tested,
                data=self.data,
                origin=self.origin,
                step_bytes=self.step_bytes,
                seconds=self.seconds,
                files=run.digests(),
            )
        )
        draw_curves(run)
        run.log("finished", step=training.step, accuracy=tested.mean)
        self.display.say(training.certificates.verdict())
        normalisation = recorded(config, training.model)["normalisation"]
        self.display.say(
            f"test accuracy {tested} (95 % interval, {config.evaluation.test_episodes} episodes, "
            f"{config.test}, {normalised(normalisation)}, method {config.method.name})"
        )

    def _fingerprint(self) -> bytes:
        """Digest of all that must be the same on all ranks."""
        parts = (to_json(self.config), self.data, self.origin, provenance.versions())
        content = json.dumps([str(part) for part in parts] + [self.training.step])
        return hashlib.sha256(content.encode()).digest()

    def _agreed(self, stop: Stop) -> signal.Signals | None:
        """The signal that any rank was sent."""
        strongest = self.world.most(stop.asked or 0, "a look at signals")
        return signal.Signals(strongest) if strongest else None

    def _stop_if(self, asked: signal.Signals | None, run: Run) -> None:
        """Between two upper steps, or two parts of the test."""
        if asked is None:
            return
        self._save(run)
        self._lead(
            "writing the events",
            lambda: run.log("stopped", step=self.training.step, signal=asked.name),
        )
        raise Stopped(asked, self.training.step, run.folder, self.config.backbone.option)

    def _advance(self, run: Run, board: Tracker, stop: Stop) -> None:
        """Take an upper step, and look, validate and save where it is time to."""
        config, training = self.config, self.training
        with self._failure_kept(run):
            training.advance(stop.asked)
        step = training.step
        last = step == config.optimisation.steps
        validate = last or step % config.evaluation.validate_every == 0
        save = step % config.run.checkpoint_every == 0
        if validate or save or step % _LOOK_EVERY == 0:
            with self._failure_kept(run):
                latest = training.look(min(_LOOK_EVERY, step))
            self.display.update(step, latest)
        if validate:
            self._validate(run, board)
        if save:
            self._save(run)

    def _validate(self, run: Run, board: Tracker) -> None:
        training = self.training
        with self._failure_kept(run):
            metrics = training.look(training.step - training.validated) if training.step else {}
            found = training.validate()
        metrics |= {"validation": found.mean, "validation_interval": found.interval}
        with self._failure_kept(run), self.world.together("the hypergradient's error"):
            if self.world.leads and training.step:
                metrics |= training.exactness()
        self._lead("writing a validation", lambda: self._write(run, board, metrics))
        self.metrics += 1
        if training.step:
            self.display.update(training.step, metrics)

    def _write(self, run: Run, board: Tracker, metrics: dict[str, float]) -> None:
        training, step = self.training, self.training.step
        if training.best is not None and training.best.found.step == step:
            run.write_weights(training.best.weights, training.card)
        run.append_metrics({"step": step, "seconds": self.seconds} | metrics)
        board.scalars(step, metrics)

    def _save(self, run: Run) -> None:
        """Write the checkpoint, if all ranks hold the same weights."""
        if self.world.size > 1:
            self.world.same(checkpoint.digest(self.training.model), "weights")
        self._lead("saving the checkpoint", lambda: self._save_to(run, run.checkpoint))

    def _save_to(self, run: Run, path: Path) -> None:
        state = self.training.state(
            key=self._key(run), origin=self.origin, metrics=self.metrics, seconds=self.seconds
        )
        checkpoint.save(path, *state)

    @contextmanager
    def _failure_kept(self, run: Run) -> Iterator[None]:
        """Keep the state in which training failed; what fails in writing files leaves none."""
        try:
            yield
        except (HypergradError, NotFiniteError, MemoryExhaustedError, RankError) as error:
            if self.world.leads:
                self._keep_failure(run, error)
            raise

    def _keep_failure(self, run: Run, error: Exception) -> None:
        """Save the state that failed, beside the last good one, and say where it is."""
        self._save_to(run, run.failure)
        step, tasks = self.training.step, self.training.tasks
        run.log("failed", step=step, error=f"{type(error).__name__}: {error}")
        first = max(0, step - _LOOK_EVERY) * tasks
        self.display.say(
            f"failed at upper step {step}, training episodes {first} to {(step + 1) * tasks - 1}: "
            f"that state is in {run.failure}; the settings, the metrics, the weights of the best "
            "validation and the last checkpoint are as they were."
        )

    def _test(self, between: Callable[[], None]) -> Accuracy:
        training, best = self.training, self.training.best
        assert best is not None  # the last step always validates
        tested = copy.deepcopy(training.model)  # a stop during the test saves the other
        tested.load_state_dict(best.weights)
        return accuracy(
            training.method,
            tested,
            self.test,
            self.config.evaluation.test_episodes,
            tasks_per_chunk=self.config.memory.tasks_per_chunk,
            between=between,
            world=self.world,
        )
