"""Finished runs of a folder, and checks that they can be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from metalearn.config.train import TrainConfig, to_json
from metalearn.errors import RunError
from metalearn.runs.folder import RESULT, Run
from metalearn.runs.records import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run.

    Attributes:
        folder: Folder of the run.
        config: Settings of the run.
        result: Result of the run.
        metrics: Metrics of each validation.
    """

    folder: Path
    config: TrainConfig
    result: Result
    metrics: list[dict[str, Any]]


def _metrics(run: Run) -> list[dict[str, Any]]:
    """Metrics of a run, checked for the fields that tables and figures read."""
    found = run.metrics()
    for line in found:
        for name in ("step", "seconds", "validation"):
            if not isinstance(line.get(name), int | float):
                raise RunError(f"the metrics in {run.folder} are damaged: {name} is missing.")
    if not found:
        raise RunError(f"the metrics in {run.folder} are damaged: there are none.")
    return found


def collect(folder: Path) -> list[Finished]:
    """Finished runs in the folder or directly below it, in the order of their names.

    Raises:
        RunError: there is none, or one is damaged.
        ConfigError: the settings of one are those of another version.
    """
    folders = sorted(path.parent for path in [*folder.glob(RESULT), *folder.glob(f"*/{RESULT}")])
    if not folders:
        raise RunError(f"{folder} holds no finished run: give the folder that runs are in.")
    found = []
    for each in folders:
        run = Run(each)
        found.append(
            Finished(folder=each, config=run.config(), result=run.result(), metrics=_metrics(run))
        )
    return found


ERROR: Final = "hypergradient_error"


def with_error(runs: Sequence[Finished]) -> list[Finished]:
    """Runs that recorded the distance of their hypergradient from the exact one.

    Raises:
        RunError: there is none.
    """
    found = [run for run in runs if all(ERROR in line for line in run.metrics)]
    if not found:
        raise RunError(
            "no run here has recorded its hypergradient's error: train with "
            "--hypergradient-error, by a method whose lower level has one minimiser."
        )
    return found


# Settings that may differ between the seeds of a method, and that may not between methods.
_FREE: Final = {"run", "resume", "seed", "device", "threads", "tracker", "data_root", "residency"}
_SHARED: Final = {"backbone", "filters", "normalisation", "train", "validation_episodes"}


def _require_same(runs: Sequence[Finished], names: set[str], what: str) -> None:
    settings = [to_json(run.config) for run in runs]
    for name in sorted(names):
        values = {str(each[name]) for each in settings}
        if len(values) > 1:
            raise RunError(
                f"{what} should have the same {name}, but have {', '.join(sorted(values))}: "
                "compare like with like, in folders of their own."
            )


def by_method(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Runs of each method, in the order of their seeds.

    Raises:
        RunError: the runs were tested on different episodes, so that nothing can be compared; or a
            method has a seed twice.
    """
    protocols = {str(run.result.protocol) for run in runs}
    if len(protocols) > 1:
        raise RunError(
            f"these runs were tested by different protocols ({'; '.join(sorted(protocols))}): "
            "compare those of one."
        )
    _require_same(runs, _SHARED, "all runs")
    found: dict[str, list[Finished]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.result.seed):
        found[run.result.method].append(run)
    for method, own in found.items():
        _require_same(own, to_json(own[0].config).keys() - _FREE, f"the runs of {method}")
        seeds = [run.result.seed for run in own]
        if len(set(seeds)) < len(seeds):
            raise RunError(
                f"{method} has seeds {seeds}: each may occur once; move the others elsewhere."
            )
    return dict(found)
