"""`metalearn evaluate`: the recorded accuracy, computed again from the weights."""

from __future__ import annotations

import torch
from rich.console import Console

from metalearn import provenance
from metalearn.config import EvaluateConfig
from metalearn.errors import RunError
from metalearn.evaluate import accuracy
from metalearn.run import Run
from metalearn.train import build_learner, evaluation_sampler


def reproduce(config: EvaluateConfig, *, console: Console) -> None:
    """Test a run's weights on its test episodes, and compare episode by episode.

    Raises:
        MetalearnError: the run can't be read, or an episode's accuracy differs from the recorded
            one (RunError, with what else differs between then and now).
        hypergrad.HypergradError: the lower level is not finite.
    """
    run = Run(config.run)
    settings, recorded = run.config(), run.result()
    torch.set_num_threads(settings.threads)
    device = settings.place()
    test = evaluation_sampler("test", settings, device=device)
    learner = build_learner(settings, test.pool, device=device)
    weights = run.weights()
    try:
        learner.backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"the weights in {run.folder} don't fit its settings: {error}") from error
    found = accuracy(learner, test, settings.test_episodes)
    console.print(
        f"test accuracy {found} (95 % interval, {settings.test_episodes} episodes, "
        f"{settings.test}, normalisation {settings.normalisation}, preset {settings.preset})",
        highlight=False,
        soft_wrap=True,
    )
    before = recorded["per_episode"]
    differing = sum(a != b for a, b in zip(found.episodes.tolist(), before, strict=True))
    if differing or found.mean != recorded["accuracy"]:
        now = {"versions": provenance.versions(), "device": provenance.device_name(device)}
        changed = {
            name: (recorded[name], value) for name, value in now.items() if recorded[name] != value
        }
        raise RunError(
            f"not reproduced: {run.folder} records {100 * recorded['accuracy']:.4f} %, "
            f"{differing} of {len(before)} episodes differ. Changed since then: "
            f"{changed or 'neither versions nor device; the weights, the code or the data, then'}."
        )
    console.print(
        f"reproduced exactly: all {len(before)} episodes as recorded in {run.folder}.",
        highlight=False,
        soft_wrap=True,
    )
