"""Runs tested on the data set that they were not trained on, beside their own.

The runs are those of the study of normalisation. All are tested on episodes of one shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console

from experiments.normalisation import KINDS, described, trained
from metalearn.cli.test import test
from metalearn.config.choices import DataName, Normalisation
from metalearn.config.commands import TestConfig
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.files import write_atomically, write_json
from metalearn.report.tables import Rows, percent
from metalearn.runs import provenance
from metalearn.testing.accuracy import INTERVAL

SHAPE: Final = EpisodeShape(way=5, shot=1, query=5)
EPISODES: Final = 200


def study(
    folder: Path,
    asked: Sequence[TrainConfig],
    *,
    kinds: Sequence[Normalisation] = KINDS,
    episodes: int = EPISODES,
    console: Console,
) -> dict[str, Any]:
    """Train what is missing of each setting with each kind, and test each run on all data sets.

    Returns:
        The record: accuracies, runs, code, versions and device.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same call goes on.
        hypergrad.errors.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    sets: list[DataName] = [each.data.name for each in asked]
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for each, kind, run in trained(folder, asked, kinds, console=console):
        runs.append(described(run))
        for data in sets:
            (point,) = test(
                TestConfig(
                    run=run.folder,
                    data=data,
                    way=SHAPE.way,
                    shot=SHAPE.shot,
                    query=SHAPE.query,
                    episodes=episodes,
                ),
                console=console,
            )
            rows.append(
                {
                    "trained_on": each.data.name,
                    "tested_on": data,
                    "normalisation": kind,
                    "seed": each.run.seed,
                    "accuracy": point.accuracy,
                    "interval": point.interval,
                }
            )
    return {
        "rows": rows,
        "protocol": {"shape": str(SHAPE), "episodes": episodes, "split": "test"},
        "formula": INTERVAL,
        "runs": runs,
        **provenance.commit(),
        "versions": provenance.versions(),
        "device": provenance.device_name(torch.device("cpu")),
    }


def table(record: Mapping[str, Any]) -> Rows:
    """A row for each run, a column for each data set that it is tested on."""
    sets = list(dict.fromkeys(row["tested_on"] for row in record["rows"]))
    found = {
        (row["trained_on"], row["normalisation"], row["seed"], row["tested_on"]): row
        for row in record["rows"]
    }
    rows = []
    for run in record["runs"]:
        own = (run["settings"]["data"], run["normalisation"], run["seed"])
        cells = [
            percent(found[*own, data]["accuracy"], found[*own, data]["interval"]) for data in sets
        ]
        at = f"{run['data']}, {run['settings']['train']['way']}-way, {run['steps']} steps"
        rows.append([at, run["normalisation"], *cells])
    protocol = record["protocol"]
    commits = dict.fromkeys(run["commit"][:7] for run in record["runs"])
    return Rows(
        title=f"Accuracy (%), {protocol['shape']}, {protocol['episodes']} test episodes",
        columns=["trained on", "normalisation", *(f"tested on {data}" for data in sets)],
        rows=rows,
        notes=[
            f"seed {record['rows'][0]['seed']}; {record['runs'][0]['backbone']}; `metalearn test "
            "RUN --data NAME` is such a test",
            f"trained at commit {', then '.join(commits)}, tested at {record['commit'][:7]}, torch "
            f"{record['versions']['torch']}, {record['device']}",
        ],
    )


def write(record: Mapping[str, Any], out: Path, *, console: Console) -> None:
    """The record and its table."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "study.json", dict(record))
    rows = table(json.loads((out / "study.json").read_text(encoding="utf-8")))
    rows.show(console)
    write_atomically(out / "study.md", rows.markdown().encode())
