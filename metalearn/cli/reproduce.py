"""`metalearn evaluate`: the recorded accuracy, computed again from the weights."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console

from metalearn.config.train import EvaluateConfig
from metalearn.errors import RunError
from metalearn.runs import provenance
from metalearn.runs.folder import Run
from metalearn.runs.records import Result, stated
from metalearn.testing.accuracy import Accuracy, accuracy
from metalearn.training.build import build_model, evaluation_sampler, identity


def reproduce(config: EvaluateConfig, *, console: Console) -> None:
    """Test a run's weights on its test episodes, and compare all that can be computed again.

    Raises:
        MetalearnError: the run can't be read, its files are not those the result was computed
            from, or a recorded number or setting is not what comes out now (RunError, with what
            else differs between then and now).
        hypergrad.HypergradError: the lower level is not finite.
    """
    run = Run(config.run)
    settings, recorded = run.config(), run.result()
    weights = run.weights()
    for name, digest in run.digests().items():
        if recorded.files.get(name) != digest:
            raise RunError(
                f"not reproduced: {run.folder / name} is not the file that result.json is the "
                f"result of: its SHA-256 is {digest}, recorded is {recorded.files.get(name)}."
            )
    torch.set_num_threads(settings.threads)
    device = settings.place()
    test = evaluation_sampler("test", settings, device=device)
    model = build_model(settings, test.pool, device=device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"the weights in {run.folder} don't fit its settings: {error}") from error
    found = accuracy(
        settings.subject,
        model,
        test,
        settings.test_episodes,
        tasks_per_chunk=settings.tasks_per_chunk,
    )
    console.print(
        f"test accuracy {found} (95 % interval, {settings.test_episodes} episodes, "
        f"{settings.test}, normalisation {settings.normalisation}, method {settings.method})",
        highlight=False,
        soft_wrap=True,
    )
    parameters = sum(p.numel() for p in model.parameters())
    expected = stated(settings, identity(settings)) | {"parameters": parameters}
    differing = _differing(recorded, expected, found)
    if differing:
        now = {"versions": provenance.versions(), "device": provenance.device_name(device)}
        changed = {
            name: (getattr(recorded, name), value)
            for name, value in now.items()
            if getattr(recorded, name) != value
        }
        raise RunError(
            f"not reproduced: {run.folder} records otherwise: {'; '.join(differing)}. Changed "
            f"since then: {changed or 'neither versions nor device; the code or the data, then'}."
        )
    console.print(
        f"reproduced exactly: all {len(recorded.per_episode)} episodes, their mean and interval "
        f"as recorded in {run.folder}, and the settings it names. Not computed again: validation, "
        "certificate, seconds, memory.",
        highlight=False,
        soft_wrap=True,
    )


def _differing(recorded: Result, stated: dict[str, Any], found: Accuracy) -> list[str]:
    """The fields that are not what the settings and the weights lead to, in words."""
    before, now = recorded.per_episode, found.episodes.tolist()
    said = []
    if len(before) != len(now):
        said.append(f"per_episode has {len(before)} values for {len(now)} episodes")
    elif count := sum(a != b for a, b in zip(now, before, strict=True)):
        said.append(f"{count} of {len(now)} episodes differ")
    expected = stated | {
        "accuracy": found.mean,
        "interval": found.interval,
        "calibration": found.calibration,
    }
    said += [
        f"{name} is {getattr(recorded, name)!r}, and {value!r} comes out"
        for name, value in expected.items()
        if getattr(recorded, name) != value
    ]
    return said
