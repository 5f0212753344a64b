"""Accuracy of single pictures beside that of episodes, by the statistics that normalise them.

A run is trained with each kind of normalisation, and tested on the same episodes with the queries
normalised in four ways: together, as a transductive run is tested; one class at a time; each by
itself; and each by the statistics of its task's labelled pictures. Stored averages and groups need
no other picture, so that the ways differ for transductive runs alone.

Shapes: T tasks, Q queries of each.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from experiments.search import TWENTY_WAYS
from metalearn.cli.compare import ensure
from metalearn.config.choices import Normalisation
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig, to_json
from metalearn.files import write_atomically, write_json
from metalearn.learner.statistics import normalised_by, statistics
from metalearn.methods import Method, Model
from metalearn.report.tables import Rows, percent
from metalearn.runs import provenance
from metalearn.runs.folder import Run
from metalearn.tasks.episodes import Episodes
from metalearn.testing.accuracy import INTERVAL
from metalearn.training.build import build_model, evaluation_sampler

TOGETHER, BY_CLASS, ALONE, SUPPORT = "together", "one class at a time", "alone", "by the support"
WAYS: Final = (TOGETHER, BY_CLASS, ALONE, SUPPORT)
KINDS: Final[tuple[Normalisation, ...]] = get_args(Normalisation)
EPISODES: Final = 150
"""Test episodes that are answered in each way."""

# Episodes of one shape for all that have one shot, so that runs can be tested on each other's data.
_FEWER: Final = EpisodeShape(way=5, shot=1, query=5)
SHORT: Final[Mapping[str, Mapping[str, Any]]] = {
    "glyphs": {"threads": 1, "tracker": "none"},
    "omniglot-20way-1shot": {
        "train": TWENTY_WAYS["train"],
        "jitter": TWENTY_WAYS["jitter"],
        "filters": 32,
        "precision": "float32",
        "wide_heads": False,
        "test": _FEWER,
    },
    "cifar-fs-5way-5shot": {
        "hypergradient_error": False,
        "test": EpisodeShape(way=5, shot=5, query=5),
    },
}
"""Changes to the settings of the long runs, by their names."""
STEPS: Final = 120
"""Upper steps of one task each, so that nine runs take minutes of a core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """Accuracy of one run with its queries normalised in one way.

    Attributes:
        data: Name of the data set.
        trained: Normalisation of the run.
        seed: Seed of the run.
        way: Way in which the queries are normalised.
        accuracy: Share of right answers.
        interval: Half the width of its 95 % interval over the episodes.
        apart: Mean difference from the same episodes' queries together.
        apart_interval: Half the width of its 95 % interval over the episodes.
    """

    data: str
    trained: str
    seed: int
    way: str
    accuracy: float
    interval: float
    apart: float
    apart_interval: float


def short(name: str, asked: TrainConfig, *, steps: int = STEPS) -> TrainConfig:
    """The settings of a short run, from those of the long run of this name."""
    return asked.replace(
        method="memory-reduced-exact",
        steps=steps,
        tasks_per_step=1,
        learning_rate=4e-3,
        schedule="cosine",
        validate_every=steps,
        checkpoint_every=max(1, steps // 10),
        validation_episodes=2,  # not looked at
        test_episodes=EPISODES,
        **SHORT[name],
    )


def parts(labels: Int[Tensor, " Q"], way: str) -> list[Tensor]:
    """Indices of the queries that are normalised together."""
    everything = torch.arange(len(labels))
    if way == TOGETHER:
        return [everything]
    if way == ALONE:
        return list(everything.split(1))
    return [everything[labels == label] for label in labels.unique()]


def answered(
    method: Method, model: Model, episodes: Episodes, ways: Sequence[str] = WAYS
) -> dict[str, Int[Tensor, "T Q"]]:
    """Classes named for the queries of episodes, normalised in each of these ways."""
    shots = episodes.support_labels.shape[1]
    answers = {way: torch.empty_like(episodes.query_labels) for way in ways}
    for task, asked in enumerate(episodes.query_labels):
        support, query = episodes.images[task].split([shots, len(asked)])
        labels = episodes.support_labels[task]
        values = method.adapt(model, support, labels, way=episodes.way).values
        for way, answer in answers.items():
            if way == SUPPORT:
                with normalised_by(model, statistics(model, support)):
                    answer[task] = method.answer(model, values, query).argmax(-1)
                continue
            for part in parts(asked, way):
                answer[task, part] = method.answer(model, values, query[part]).argmax(-1)
    return answers


def half(values: Tensor) -> float:
    """Half the width of a 95 % interval of the mean; see `INTERVAL`."""
    spread: float = values.std().item()
    return 1.96 * spread / math.sqrt(len(values))


def tested(run: Run, *, episodes: int) -> list[Tested]:
    """One run on the first of its test episodes, in each way that makes a difference to it."""
    settings = run.config()
    torch.set_num_threads(settings.run.threads)
    device = torch.device("cpu")
    sampler = evaluation_sampler("test", settings, device=device)
    model = build_model(settings, sampler.pool, device=device).eval()
    model.load_state_dict(run.weights())
    method, kind = settings.preset().method, settings.preset().normalisation
    batch = sampler.sample(0, episodes)
    ways = WAYS if kind == "transductive" else (TOGETHER, ALONE)
    right = {
        way: (answers == batch.query_labels).double().mean(-1)
        for way, answers in answered(method, model, batch, ways).items()
    }
    return [
        Tested(
            data=settings.data.name,
            trained=kind,
            seed=settings.run.seed,
            way=way,
            accuracy=each.mean().item(),
            interval=half(each),
            apart=(each - right[TOGETHER]).mean().item(),
            apart_interval=half(each - right[TOGETHER]),
        )
        for way, each in right.items()
    ]


def trained(
    folder: Path, asked: Sequence[TrainConfig], kinds: Sequence[Normalisation], *, console: Console
) -> Iterator[tuple[TrainConfig, Normalisation, Run]]:
    """Each setting's run with each kind, trained where it is missing."""
    for each, kind in itertools.product(asked, kinds):
        run = Run(folder / f"{each.data.name}-{kind}-{each.run.seed}")
        ensure(each.replace(run=run.folder, normalisation=kind), console=console)
        yield each, kind, run


def study(
    folder: Path,
    asked: Sequence[TrainConfig],
    *,
    kinds: Sequence[Normalisation] = KINDS,
    episodes: int = EPISODES,
    console: Console,
) -> dict[str, Any]:
    """Train what is missing of each setting with each kind, and test it in each way.

    Returns:
        The record: accuracies, runs, code, versions and device.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same call goes on.
        hypergrad.errors.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    found: list[Tested] = []
    runs: list[dict[str, Any]] = []
    for _, _, run in trained(folder, asked, kinds, console=console):
        found += tested(run, episodes=episodes)
        runs.append(described(run))
    return {
        "rows": [dataclasses.asdict(each) for each in found],
        "episodes": episodes,
        "formula": INTERVAL,
        "runs": runs,
        **provenance.commit(),
        "versions": provenance.versions(),
        "device": provenance.device_name(torch.device("cpu")),
    }


def described(run: Run) -> dict[str, Any]:
    """The record of a run: its code, its settings and the accuracy that it printed."""
    result, config = run.result(), run.config()
    settings = {
        name: value
        for name, value in to_json(config).items()
        if name not in ("run", "resume", "data_root")
    }
    return {
        "data": result.protocol.data,
        "data_sha256": result.protocol.data_sha256,
        "episodes": str(config.test),
        "normalisation": result.normalisation,
        "seed": config.run.seed,
        "steps": config.optimisation.steps,
        "backbone": result.backbone,
        "printed": {
            "accuracy": result.accuracy,
            "interval": result.interval,
            "episodes": result.protocol.episodes,
        },
        "certificate": result.certificate,
        "settings": settings,
        "commit": result.commit,
        "dirty": result.dirty,
        "versions": result.versions,
        "files": result.files,
    }


def table(record: Mapping[str, Any]) -> Rows:
    """A row for each run, a column for each way."""
    found = {(r["data"], r["trained"], r["seed"], r["way"]): r for r in record["rows"]}
    rows = []
    for run in record["runs"]:
        # the run's own name of the data says, too, if they are partial
        key = (run["settings"]["data"], run["normalisation"], run["seed"])
        cells = []
        for way in WAYS:
            own = found.get((*key, way))
            cells.append("" if own is None else percent(own["accuracy"], own["interval"]))
        at = f"{run['data']}, {run['episodes'].split(',')[0]}, {run['steps']} steps"
        rows.append([at, str(run["seed"]), run["normalisation"], *cells])
    commits = dict.fromkeys(run["commit"][:7] for run in record["runs"])
    return Rows(
        title=(
            f"Accuracy (%) of {record['episodes']} test episodes by what the queries are "
            "normalised with"
        ),
        columns=["data", "seed", "trained with", *WAYS],
        rows=rows,
        notes=[
            "together: all queries of an episode; alone: each query by itself, as a single picture "
            "comes; by the support: each by the statistics of its task's labelled pictures; empty: "
            "the same as alone, since no other picture matters",
            f"trained at commit {', then '.join(commits)}, tested at {record['commit'][:7]}, torch "
            f"{record['versions']['torch']}, {record['device']}",
        ],
    )


def write(record: Mapping[str, Any], out: Path, *, console: Console) -> None:
    """The record and its table."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "study.json", dict(record))
    draw(out, console=console)


def draw(out: Path, *, console: Console) -> None:
    """Table from the record alone."""
    rows = table(json.loads((out / "study.json").read_text(encoding="utf-8")))
    rows.show(console)
    write_atomically(out / "study.md", rows.markdown().encode())
