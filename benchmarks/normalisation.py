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
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.provenance import provenance, write
from metalearn import Method, Model
from metalearn.learner.statistics import normalised_by, statistics
from metalearn.runs.folder import Run
from metalearn.tasks.episodes import Episodes
from metalearn.testing.accuracy import INTERVAL
from metalearn.training.build import build_model, evaluation_sampler

TOGETHER, BY_CLASS, ALONE, SUPPORT = "together", "one class at a time", "each alone", "support only"
WAYS: Final = (TOGETHER, BY_CLASS, ALONE, SUPPORT)


def answered(method: Method, model: Model, episodes: Episodes, way: str) -> Tensor:
    """Classes named for the queries (T, Q) of episodes, normalised in this way."""
    shots = episodes.support_labels.shape[1]
    answers = torch.empty_like(episodes.query_labels)
    for task, answer in enumerate(answers):
        support, query = episodes.images[task].split([shots, len(answer)])
        labels, asked = episodes.support_labels[task], episodes.query_labels[task]
        values = method.adapt(model, support, labels, way=episodes.way).values
        if way == SUPPORT:
            with normalised_by(model, statistics(model, support)):
                answer[:] = method.answer(model, values, query).argmax(-1)
            continue
        for part in parts(asked, way):
            answer[part] = method.answer(model, values, query[part]).argmax(-1)
    return answers


def parts(asked: Tensor, way: str) -> list[Tensor]:
    """Which queries are normalised together."""
    everything = torch.arange(len(asked))
    if way == TOGETHER:
        return [everything]
    if way == ALONE:
        return list(everything.split(1))
    return [everything[asked == label] for label in asked.unique()]


def study(run: Path, *, episodes: int) -> list[dict[str, object]]:
    """Accuracy of one run on its own test episodes, once for each way."""
    settings, record = Run(run).config(), Run(run).result()
    sampler = evaluation_sampler("test", settings, device=torch.device("cpu"))
    model = build_model(settings, sampler.pool, device=torch.device("cpu")).eval()
    model.load_state_dict(Run(run).weights())
    method, kind = settings.preset().method, settings.backbone.normalisation
    batch = sampler.sample(0, episodes)
    rows: list[dict[str, object]] = []
    for way in WAYS if kind == "transductive" else (TOGETHER, ALONE):
        right = (answered(method, model, batch, way) == batch.query_labels).double().mean(-1)
        rows.append(
            {
                "data": settings.data.name,
                "episodes": str(settings.test),
                "trained with": kind,
                "queries normalised": way,
                "accuracy": right.mean().item(),
                "interval": 1.96 * right.std().item() / math.sqrt(episodes),
                "printed": {"accuracy": record.accuracy, "interval": record.interval},
                "run": {
                    "commit": record.commit,
                    "seed": record.seed,
                    "steps": settings.optimisation.steps,
                    "files": record.files,
                },
            }
        )
        print(f"{run.name}, {way}: {100 * right.mean():.2f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = provenance()
    rows = [row for run in chosen.runs for row in study(run, episodes=chosen.episodes)]
    write(chosen.out, found | {"formula": INTERVAL, "count": chosen.episodes, "rows": rows})


if __name__ == "__main__":
    main()
