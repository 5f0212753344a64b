"""`metalearn test`: a recorded accuracy computed again, or a trained learner tested otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from metalearn.backbones.source import imported, require_confirmed
from metalearn.config.choices import Split
from metalearn.config.commands import TestConfig
from metalearn.config.groups import normalised
from metalearn.config.train import EVALUATION_SEED, TrainConfig
from metalearn.errors import RunError
from metalearn.files import write_json
from metalearn.methods.method import Method
from metalearn.methods.overrides import tested_by
from metalearn.runs import provenance
from metalearn.runs.folder import Run
from metalearn.runs.records import Point, Result, Retested, TestProtocol, stated
from metalearn.testing.accuracy import INTERVAL, accuracy
from metalearn.training import build
from metalearn.training.build import build_model, evaluation_sampler, identity
from metalearn.training.features import featured


def test(config: TestConfig, *, console: Console) -> list[Point]:
    """Test a run's weights, print the accuracy, and write it if a file is named.

    Without options the test is the recorded one, and everything that can be computed again is
    compared with the record.

    Raises:
        MetalearnError: the run can't be read, its files are not those the result was computed from,
            a setting can't work, the file can't be written; or a recorded number or setting does
            not come out again (RunError, with what else differs between then and now).
        hypergrad.errors.HypergradError: the lower level is not finite.
    """
    run = Run(config.run)
    settings, recorded = _asked(config, run.config()), run.result()
    weights = run.weights()
    run.require_files_of(recorded)
    torch.set_num_threads(settings.run.threads)
    device = settings.place()
    split: Split = config.split or "test"
    sampler = evaluation_sampler(split, settings, device=device)
    require_confirmed(settings.backbone.name, config.backbone)
    source = imported(settings.backbone.name)
    model = build_model(settings, sampler.pool, device=device, source=source)
    described = build.recorded(settings, model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        shape = "x".join(str(size) for size in sampler.pool.images.shape[2:])
        raise RunError(
            f"the weights in {run.folder} don't fit its settings with images of "
            f"{settings.data.name}, {shape} (channels, height, width): {error}"
        ) from error
    sampler = featured(sampler, model, settings)
    points = []
    table = Table("lower steps", "accuracy (%)", "calibration error", "log loss (nats)")
    for steps, method in _methods(settings, config.lower_steps):
        found = accuracy(
            method,
            model,
            sampler,
            settings.evaluation.test_episodes,
            tasks_per_chunk=settings.memory.tasks_per_chunk,
        )
        point = Point(
            lower_steps=steps,
            accuracy=found.mean,
            interval=found.interval,
            calibration=found.calibration,
            per_episode=found.episodes.tolist(),
        )
        points.append(point)
        name = "as trained" if steps is None else str(steps)
        judged = found.calibration
        table.add_row(name, str(found), f"{judged.error:.3f}", f"{judged.log_loss:.3f}")
    if config.out is not None:
        _write(config, settings, split, points, device, described)
    console.print(table)
    trained = run.config().data.name
    if trained != settings.data.name:
        _say(console, f"another domain: trained on {trained}, tested on {settings.data.name}")
    _say(
        console,
        f"{settings.data.name}, {settings.test}, {settings.evaluation.test_episodes} {split} "
        f"episodes; interval: {INTERVAL}; {normalised(described['normalisation'])}, "
        f"method {settings.method.name}",
    )
    if config.again:
        expected = stated(settings, identity(settings)) | described
        _require_same(run, recorded, expected, points[0], device)
        _say(
            console,
            f"reproduced exactly: all {len(recorded.per_episode)} episodes, their mean and interval"
            f" as recorded in {run.folder}, and the settings it names. Not computed again: "
            "validation, certificate, seconds, memory.",
        )
    return points


def _say(console: Console, message: str) -> None:
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def _asked(config: TestConfig, recorded: TrainConfig) -> TrainConfig:
    """The run's settings, with what the options give in their place."""
    names = ("way", "shot", "query", "fewest_way", "fewest_shot")
    given = {name: getattr(config, name) for name in names}
    asked = dataclasses.replace(
        recorded.test, **{name: value for name, value in given.items() if value is not None}
    )
    changes: dict[str, Any] = {
        "data": config.data,
        "data_root": config.data_root,
        "test_episodes": config.episodes,
        "test": asked,
        "tasks_per_chunk": 1 if asked.varies else None,
    }
    return recorded.replace(**{k: value for k, value in changes.items() if value is not None})


def _methods(settings: TrainConfig, steps: tuple[int, ...]) -> list[tuple[int | None, Method]]:
    method = settings.preset().method
    if not steps:
        return [(None, method)]
    return [(count, tested_by(method, lower_steps=count)) for count in steps]


def _require_same(
    run: Run, recorded: Result, stated: dict[str, Any], point: Point, device: torch.device
) -> None:
    """Raise unless the record holds what the settings and the weights lead to now."""
    before, now = recorded.per_episode, point.per_episode
    differing = []
    if len(before) != len(now):
        differing.append(f"per_episode has {len(before)} values for {len(now)} episodes")
    elif count := sum(a != b for a, b in zip(now, before, strict=True)):
        differing.append(f"{count} of {len(now)} episodes differ")
    expected = stated | {
        "accuracy": point.accuracy,
        "interval": point.interval,
        "calibration": point.calibration,
    }
    differing += [
        f"{name} is {getattr(recorded, name)!r}, and {value!r} comes out"
        for name, value in expected.items()
        if getattr(recorded, name) != value
    ]
    if not differing:
        return
    here = {"versions": provenance.versions(), "device": provenance.device_name(device)}
    changed = {
        name: (getattr(recorded, name), value)
        for name, value in here.items()
        if getattr(recorded, name) != value
    }
    raise RunError(
        f"not reproduced: {run.folder} records otherwise: {'; '.join(differing)}. Changed "
        f"since then: {changed or 'neither versions nor device; the code or the data, then'}."
    )


def _write(
    config: TestConfig,
    settings: TrainConfig,
    split: Split,
    points: list[Point],
    device: torch.device,
    described: dict[str, Any],
) -> None:
    assert config.out is not None
    data = identity(settings)
    record = Retested(
        run=config.run.resolve().name,
        method=settings.method.name,
        backbone=described["backbone"],
        normalisation=described["normalisation"],
        seed=settings.run.seed,
        protocol=TestProtocol(
            data=data.name,
            data_sha256=data.sha256,
            split=split,
            **dataclasses.asdict(settings.test),
            episodes=settings.evaluation.test_episodes,
            episode_seed=EVALUATION_SEED,
        ),
        interval_formula=INTERVAL,
        points=points,
        **provenance.commit(),
        versions=provenance.versions(),
        device=provenance.device_name(device),
    )
    try:
        write_json(config.out, dataclasses.asdict(record))
    except OSError as error:
        raise RunError(f"{config.out} can't be written ({error}): give another --out.") from error
