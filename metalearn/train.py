"""The main job: train the backbone by hypergradients, keep the best weights, test them."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

import torch
from rich.console import Console

from hypergrad.errors import HypergradError
from metalearn import checkpoint, provenance
from metalearn.checkpoint import RunKey
from metalearn.config import Device, TrainConfig, to_json
from metalearn.curves import draw_curves
from metalearn.errors import NotFiniteError, RunError, Stopped
from metalearn.evaluate import Accuracy, accuracy
from metalearn.methods.adjust import describe
from metalearn.plan import predicted_bytes, say_plan, within_budget
from metalearn.progress import Display
from metalearn.provenance import joined
from metalearn.result import Result, stated
from metalearn.run import Run
from metalearn.stopping import Stop
from metalearn.trackers import Tracker, refuse_missing, tracker
from metalearn.training import Training, evaluation_sampler, identity

# Upper steps between readings of the loss: each waits for the device.
_LOOK_EVERY: Final = 10


def train(config: TrainConfig, *, console: Console) -> None:
    """Train, validate and test, or go on with a run that was stopped; all is left in its folder.

    Raises:
        MetalearnError: a setting, the data or the folder can't be used; or the loss is not finite.
        Stopped: by SIGINT or SIGTERM, with the state saved.
        hypergrad.HypergradError: the lower level, or the adjoint on it, is not finite.
    """
    if config.resume is not None:
        config.refuse_settings_with_resume()
        run = Run(config.resume)
        if run.finished:
            raise RunError(f"{run.folder} is finished: there is nothing to resume.")
        _Job.of(run.config(), console).go_on(run)
    elif config.dry_run:
        job = _Job.of(config, console)
        say_plan(job.training, job.test, console=console)
    else:
        _Job.of(config, console).begin()


class _Job:
    """One process's part in a run.

    Args:
        config: settings of the run.
        device: they lead to.
        console: to say things on.
    """

    def __init__(self, config: TrainConfig, device: torch.device, console: Console) -> None:
        self.config, self.device = config, device
        # The code that runs is that of now, whatever its files are when the run ends.
        self.origin = provenance.commit()
        # What can be refused is, before a folder is made and before, not after, training.
        refuse_missing(config.tracker)
        self.data = identity(config)
        self.test = evaluation_sampler("test", config, device=device)
        self.training = Training(config, device)
        # Recorded as what it came to: another count elsewhere mustn't lead to other chunks.
        self.config = self.training.config = within_budget(self.training, console=console)
        self.step_bytes = predicted_bytes(self.training)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.display = Display(console, config.steps)
        self.seconds_before, self.began = 0.0, time.monotonic()
        self.metrics = 0

    @classmethod
    def of(cls, config: TrainConfig, console: Console) -> _Job:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        device = config.place()
        # Recorded as what it was: a test elsewhere mustn't take auto for another device.
        recorded: Device = "cuda" if device.type == "cuda" else "cpu"
        return cls(dataclasses.replace(config, device=recorded), device, console)

    @property
    def seconds(self) -> float:
        """Spent on the run, in this process and in those before."""
        return self.seconds_before + time.monotonic() - self.began

    def begin(self) -> None:
        """A new run."""
        run = Run.begin(self.config)
        run.log("started", **self.origin, versions=provenance.versions())
        self._run(run)

    def go_on(self, run: Run) -> None:
        """The rest of a run, from its last checkpoint; from the start if it has none."""
        if run.checkpoint.exists():
            tensors, progress = checkpoint.load(run.checkpoint)
            self._refuse_another(run, progress.key)
            self.training.restore(tensors, progress)
            self.seconds_before, self.metrics = progress.seconds, progress.metrics
            self.origin = joined(progress.origin, self.origin)
            self.display.start(self.training.step)
            if self.training.best is not None:
                run.write_weights(self.training.best.weights)
        run.keep_metrics(self.metrics)
        run.log("resumed", step=self.training.step, **self.origin, versions=provenance.versions())
        self.display.say(f"resuming {run.folder} after {self.training.step} upper steps")
        self._run(run)

    def _key(self, run: Run) -> RunKey:
        return RunKey(
            config=run.config_digest(),
            configured=describe(self.training.configured),
            data=self.data.sha256,
        )

    def _refuse_another(self, run: Run, before: RunKey) -> None:
        now = self._key(run)
        if before.config != now.config:
            raise RunError(
                f"{run.checkpoint} belongs to other settings than those in {run.folder}: "
                "put config.json back as it was."
            )
        if before.configured != now.configured:
            raise RunError(
                f"{run.checkpoint} was made when method {self.config.method} meant "
                f"{before.configured}; it now means {now.configured}: go on with the code of then."
            )
        if before.data != now.data:
            raise RunError(
                f"{run.checkpoint} was made with other data: SHA-256 {before.data} then, "
                f"{now.data} now. Prepare {self.config.data} as it was."
            )

    def _run(self, run: Run) -> None:
        config, training = self.config, self.training
        self.display.say(
            f"{config.data}, {config.test}; method {config.method}; {self.device}; in {run.folder}"
        )
        board = tracker(
            config.tracker, run.folder, step=training.step, settings=to_json(self.config)
        )
        with self.display.running(), closing(board), Stop() as stop:
            while not training.done:
                try:
                    self._advance(run, board)
                except (HypergradError, NotFiniteError) as error:
                    self._keep_failure(run, error)
                    raise
                self._stop_if_asked(run, stop)
            self._save(run)
            tested = self._test(lambda: self._stop_if_asked(run, stop))
        run.write_result(self._result(run, tested))
        draw_curves(run)
        run.log("finished", step=training.step, accuracy=tested.mean)
        self.display.say(training.evidence.verdict())
        self.display.say(
            f"test accuracy {tested} (95 % interval, {config.test_episodes} episodes, "
            f"{config.test}, normalisation {config.normalisation}, method {config.method})"
        )

    def _stop_if_asked(self, run: Run, stop: Stop) -> None:
        """Between two upper steps, or two parts of the test."""
        if stop.asked is not None:
            self._save(run)
            run.log("stopped", step=self.training.step, signal=stop.asked.name)
            raise Stopped(stop.asked, self.training.step, run.folder)

    def _advance(self, run: Run, board: Tracker) -> None:
        """Take an upper step, and look, validate and save where it is time to."""
        config, training = self.config, self.training
        training.advance()
        step = training.step
        last = step == config.steps
        validate = last or step % config.validate_every == 0
        save = step % config.checkpoint_every == 0
        if validate or save or step % _LOOK_EVERY == 0:
            self.display.update(step, training.look(min(_LOOK_EVERY, step)))
        if validate:
            metrics = training.look(step - training.validated)
            found = training.validate()
            metrics |= {"validation": found.mean, "validation_interval": found.interval}
            if training.best is not None and training.best.found.step == step:
                run.write_weights(training.best.weights)
            run.append_metrics({"step": step, "seconds": self.seconds} | metrics)
            self.metrics += 1
            board.scalars(step, metrics)
            self.display.update(step, metrics)
        if save:
            self._save(run)

    def _save(self, run: Run) -> None:
        state = self.training.state(
            key=self._key(run), origin=self.origin, metrics=self.metrics, seconds=self.seconds
        )
        checkpoint.save(run.checkpoint, *state)

    def _keep_failure(self, run: Run, error: Exception) -> None:
        """Save the state that failed, beside the last good one, and say where it is."""
        state = self.training.state(
            key=self._key(run), origin=self.origin, metrics=self.metrics, seconds=self.seconds
        )
        checkpoint.save(run.failure, *state)
        step, tasks = self.training.step, self.training.tasks
        run.log("failed", step=step, error=f"{type(error).__name__}: {error}")
        first = max(0, step - _LOOK_EVERY) * tasks
        self.display.say(
            f"failed at upper step {step}, training episodes {first} to {(step + 1) * tasks - 1}: "
            f"that state is in {run.failure}; the settings, the metrics, the weights of the best "
            "validation and the last checkpoint are as they were."
        )

    def _test(self, between: Callable[[], None]) -> Accuracy:
        best = self.training.best
        assert best is not None  # the last step always validates
        training = self.training
        tested = copy.deepcopy(training.model)  # a stop during the test saves the other
        tested.load_state_dict(best.weights)
        return accuracy(
            training.method,
            tested,
            self.test,
            self.config.test_episodes,
            tasks_per_chunk=self.config.tasks_per_chunk,
            between=between,
        )

    def _result(self, run: Run, tested: Accuracy) -> Result:
        training = self.training
        assert training.best is not None
        best = training.best.found
        return Result(
            accuracy=tested.mean,
            interval=tested.interval,
            calibration=tested.calibration,
            **stated(self.config, self.data),
            certificate=training.evidence.summary(),
            validation=best.mean,
            validation_interval=best.interval,
            best_step=best.step,
            **self.origin,
            versions=provenance.versions(),
            device=provenance.device_name(self.device),
            peak_memory=provenance.peak_memory(self.device),
            step_bytes=self.step_bytes,
            seconds=self.seconds,
            parameters=sum(p.numel() for p in training.model.parameters()),
            files=run.digests(),
            per_episode=tested.episodes.tolist(),
        )
