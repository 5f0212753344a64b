"""A search at small cost: the same settings with some of them changed, compared by validation.

Nothing is tested: a search that looks at test episodes would choose by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from metalearn.cli.compare import ensure
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.report.tables import Rows, percent
from metalearn.runs.folder import Run

TWENTY_WAYS: Final[Mapping[str, Any]] = {
    "tasks_per_step": 4,
    "train": EpisodeShape(way=20, shot=1, query=2),
    "learning_rate": 0.002,
    "jitter": False,
}
"""Settings of training on Omniglot before the search; other studies keep to them."""
_WIDE: Final = {**TWENTY_WAYS, "tasks_per_step": 1, "train": EpisodeShape(way=80, shot=1, query=2)}

# What each variant changes: one thing more than the one before; at last the rate once more. An
# upper step passes 240 images.
OMNIGLOT: Final[Mapping[str, Mapping[str, Any]]] = {
    "4 tasks of 20 ways": TWENTY_WAYS,
    "1 task of 80 ways": _WIDE,
    "1 task of 80 ways, from a rate of 0.008": {**_WIDE, "learning_rate": 0.008},
    "1 task of 80 ways, from a rate of 0.008, jitter": {
        **_WIDE,
        "learning_rate": 0.008,
        "jitter": True,
    },
    "1 task of 80 ways, from a rate of 0.02": {**_WIDE, "learning_rate": 0.02},
}
STEPS: Final = 1000
SEED: Final = 1
"""Not the seed of the run that the search is for."""


def search(
    folder: Path,
    asked: TrainConfig,
    *,
    variants: Mapping[str, Mapping[str, Any]] = OMNIGLOT,
    steps: int = STEPS,
    console: Console,
) -> Rows:
    """Train each variant for so many steps; finished runs are kept.

    Args:
        folder: Folder for the runs.
        asked: Settings that the variants change.
        variants: Changed settings of each variant, by what a table calls it. The seed may be one.
        steps: Upper steps of each, over which a cosine falls to 0.
        console: Where progress is printed.

    Returns:
        Table of the last validations, in the order of the variants.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same call goes on.
        hypergrad.errors.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    short = asked.replace(
        seed=SEED,
        steps=steps,
        validate_every=steps,
        checkpoint_every=max(1, steps // 10),
        test_episodes=2,  # not looked at
    )
    numbers = dict.fromkeys(str(changed.get("seed", SEED)) for changed in variants.values())
    seeds = f"seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
    rows, origins = [], dict[str, None]()
    for number, (name, changed) in enumerate(variants.items()):
        own = short.replace(run=folder / f"{number}", **changed)
        ensure(own, console=console)
        run = Run(folder / f"{number}")
        # the last, not the best: that is the luckiest of many
        last, result = run.metrics()[-1], run.result()
        certificate = result.certificate or {"tasks": 0, "failed": 0}
        rows.append(
            [
                name,
                percent(last["validation"], last["validation_interval"]),
                f"{last['loss']:.3f}",
                f"{certificate['failed']} of {certificate['tasks']}",
            ]
        )
        changed_since = " (changed)" if result.dirty else ""
        versions = f"torch {result.versions['torch']}, {result.device}"
        origins[f"commit {result.commit}{changed_since}, {versions}"] = None
    return Rows(
        title=(
            f"Validation accuracy (%): {asked.data.name}, {asked.test}, "
            f"{asked.evaluation.validation_episodes} validation episodes, after {steps} upper "
            f"steps, {asked.backbone}, {seeds}"
        ),
        columns=["settings", "validation", "loss", "adjoint systems above tolerance"],
        rows=rows,
        notes=["loss: mean over training, of the variant's own episodes", *origins],
    )
