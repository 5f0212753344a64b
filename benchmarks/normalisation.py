"""Which statistics give single pictures the accuracy that episodes have.

Each run is tested on the same episodes with its queries normalised in several ways: together, as a
transductive run is tested; one class at a time; each by itself; and by the statistics of its task's
support alone. Stored averages and groups need no other picture, so that for them all are one.

    metalearn train --run runs/stored --normalisation stored      # and transductive, group
    python -m benchmarks.normalisation --runs runs/* --out benchmarks/results/normalisation.json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.provenance import provenance, write
from metalearn import Model, load
from metalearn.backbones import Norm
from metalearn.config.groups import EpisodeShape
from metalearn.learner.trained import Trained
from metalearn.runs.folder import Run
from metalearn.tasks.episodes import Episodes
from metalearn.testing.accuracy import INTERVAL
from metalearn.training.build import evaluation_sampler

TOGETHER, BY_CLASS, ALONE, SUPPORT = "together", "one class at a time", "each alone", "support only"
WAYS: Final = (TOGETHER, BY_CLASS, ALONE, SUPPORT)


@contextmanager
def statistics_of(model: Model, support: Tensor) -> Iterator[None]:
    """While it is open, every transductive normalisation uses the support's statistics."""
    norms = [p for p in model.modules() if isinstance(p, Norm) and p.mode == "transductive"]
    try:
        for norm in norms:
            norm.register_buffer("mean", torch.zeros_like(norm.bias))
            norm.register_buffer("variance", torch.ones_like(norm.bias))
            norm.mode, norm.momentum = "stored", 1.0
            norm.train()
        with torch.no_grad():
            model.features(support[None], len(support))
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.mode = "transductive"
            del norm.mean, norm.variance, norm.momentum


def answered(trained: Trained, episodes: Episodes, way: str) -> Tensor:
    """Classes named for the queries (T, Q) of 5-way episodes, normalised in this way."""
    method, model = trained.method(), trained.model
    shots = episodes.support_labels.shape[1]
    found = []
    for images, labels, asked in zip(
        episodes.images, episodes.support_labels, episodes.query_labels, strict=True
    ):
        support, query = images[:shots], images[shots:]
        values = method.adapt(model, support, labels, way=episodes.way).values

        def named(part: Tensor, values: object = values) -> Tensor:
            return method.answer(model, values, part).argmax(-1)  # type: ignore[arg-type]

        if way == TOGETHER:
            found.append(named(query))
        elif way == ALONE:
            found.append(torch.cat([named(x) for x in query.split(1)]))
        elif way == BY_CLASS:
            answer = torch.empty_like(asked)
            for label in asked.unique():
                answer[asked == label] = named(query[asked == label])
            found.append(answer)
        else:
            with statistics_of(model, support):
                found.append(named(query))
    return torch.stack(found)


def study(run: Path, *, shot: int, episodes: int) -> list[dict[str, object]]:
    """Accuracy of one run, once for each way."""
    trained, settings = load(run).trained, Run(run).config()
    record = Run(run).result()
    settings = settings.replace(test=EpisodeShape(way=5, shot=shot, query=5))
    sampler = evaluation_sampler("test", settings, device=torch.device("cpu"))
    batch = sampler.sample(0, episodes)
    rows: list[dict[str, object]] = []
    ways = (TOGETHER, ALONE) if trained.one_by_one else WAYS
    for way in ways:
        right = (answered(trained, batch, way) == batch.query_labels).double().mean(-1)
        rows.append(
            {
                "data": settings.data.name,
                "trained with": settings.backbone.normalisation,
                "queries normalised": way,
                "shot": shot,
                "accuracy": right.mean().item(),
                "interval": 1.96 * right.std().item() / math.sqrt(episodes),
                "run": {
                    "commit": record.commit,
                    "dirty": record.dirty,
                    "seed": record.seed,
                    "steps": settings.optimisation.steps,
                    "printed": record.accuracy,
                },
            }
        )
        print(f"{run.name}, {shot}-shot, {way}: {100 * right.mean():.2f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = provenance()
    rows = [
        row
        for run in chosen.runs
        for shot in chosen.shots
        for row in study(run, shot=shot, episodes=chosen.episodes)
    ]
    write(chosen.out, found | {"interval": INTERVAL, "episodes": chosen.episodes, "rows": rows})


if __name__ == "__main__":
    main()
