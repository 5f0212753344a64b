"""Study of the tasks of a step on a real problem, where equally many tasks are seen in all.

Theorem 1 (docs/theory.md) has one term that knows b, the tasks of a step: L_F eta omega s^2 / b.
There s^2 is the variance of the hypergradient over tasks, and omega = 1 for tasks that are
drawn anew. The variance is measured at the trained model; and so is the law, that a mean of b tasks
has a b-th of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from metalearn.cli.compare import ensure
from metalearn.config.train import TrainConfig
from metalearn.files import write_atomically, write_json
from metalearn.report.tables import Rows
from metalearn.runs.folder import Run
from metalearn.training.build import build_model, training_sampler
from metalearn.training.step import accumulate

BATCHES: Final = (1, 2, 4, 8)
SEEDS: Final = (0, 1, 2)
TASKS: Final = 64
"""Tasks that the variance is measured on; a multiple of each batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One run.

    Attributes:
        tasks: b, of a step.
        steps: upper steps; tasks times steps is the same for all runs.
        seed: seed of weights and training episodes.
        accuracy: accuracy of the test.
        interval: half the width of its 95 % interval over the test's episodes.
        gradient: squared length of the mean hypergradient of the tasks measured, at the end; its
            expectation is that of all tasks and variance / tasks measured.
        variance: sigma_h^2 at the end.
        means: E |mean of b tasks - mean of all|^2 there, by b.
    """

    tasks: int
    steps: int
    seed: int
    accuracy: float
    interval: float
    gradient: float
    variance: float
    means: dict[str, float]


def hypergradients(run: Run, tasks: int) -> Float[Tensor, "tasks parameters"]:
    """The hypergradient of each of so many tasks that the run never trained on, at its weights."""
    config = run.config()
    device = config.place()
    sampler = training_sampler(config, device=device)
    model = build_model(config, sampler.pool, device=device)
    model.load_state_dict(run.weights())
    preset = config.preset()
    first = config.optimisation.steps * preset.tasks_per_step
    rows = []
    for index in range(first, first + tasks):
        model.zero_grad(set_to_none=True)
        accumulate(preset.method, model, [sampler.sample(index, 1)], tasks=1, watch=lambda _: None)
        parts = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def spread(found: Float[Tensor, "tasks parameters"], batch: int) -> float:
    """E |mean of `batch` tasks - expectation|^2, from disjoint batches.

    The mean of all stands for the expectation; the divisor is one batch fewer for that.
    """
    groups = found.reshape(len(found) // batch, batch, -1).mean(1)
    apart = groups - groups.mean(0)
    return float(apart.square().sum()) / (len(groups) - 1)


def study(
    folder: Path,
    asked: TrainConfig,
    *,
    batches: Sequence[int] = BATCHES,
    seeds: Sequence[int] = SEEDS,
    tasks: int = TASKS,
    console: Console,
) -> tuple[list[Trained], dict[str, Any]]:
    """Train what is missing, each b for as many steps as leave the tasks in all the same.

    Returns:
        The runs, and what their results say of code, versions and data.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same call goes on.
    """
    total = asked.optimisation.steps * asked.preset().tasks_per_step
    found, commits = [], dict[str, None]()
    for seed, batch in itertools.product(seeds, batches):
        run, steps = Run(folder / f"{batch}-{seed}"), total // batch
        own = asked.replace(
            run=run.folder, tasks_per_step=batch, steps=steps, validate_every=steps, seed=seed
        )
        ensure(own, console=console)
        result = run.result()
        each = hypergradients(run, tasks)
        found.append(
            Trained(
                tasks=batch,
                steps=steps,
                seed=seed,
                accuracy=result.accuracy,
                interval=result.interval,
                gradient=float(each.mean(0).square().sum()),
                variance=spread(each, 1),
                means={str(size): spread(each, size) for size in batches},
            )
        )
        commits[result.commit] = None
    return found, {
        "protocol": dataclasses.asdict(result.protocol),
        "train": str(asked.train),
        "backbone": result.backbone,
        "learning_rate": result.learning_rate,
        "tasks_in_all": total,
        "tasks_measured": tasks,
        "commit": ", then ".join(commits),
        "dirty": result.dirty,
        "versions": result.versions,
        "device": result.device,
    }


def table(runs: Sequence[Trained], origin: dict[str, Any]) -> Rows:
    """One row a number of tasks."""
    rows = []
    for batch in sorted({run.tasks for run in runs}):
        own = [run for run in runs if run.tasks == batch]
        accuracies = [100 * run.accuracy for run in own]
        # the law, at every trained model: b times the variance of a mean of b, over that of one
        law = mean(batch * run.means[str(batch)] / run.variance for run in runs)
        rows.append(
            [
                str(batch),
                str(own[0].steps),
                f"{mean(accuracies):.2f}",
                ", ".join(f"{each:.2f}" for each in accuracies),
                f"{mean(run.variance for run in own):.3g}",
                f"{noise(own, origin['tasks_measured']):.3g}",
                f"{law:.2f}",
            ]
        )
    protocol = origin["protocol"]
    return Rows(
        title=(
            f"Accuracy (%) and variance of the hypergradient by tasks of a step: "
            f"{protocol['data']}, {protocol['way']}-way {protocol['shot']}-shot, "
            f"{protocol['episodes']} test episodes, {origin['backbone']}, {origin['tasks_in_all']} "
            "tasks in all"
        ),
        columns=[
            "b",
            "steps",
            "accuracy",
            "each seed",
            "σ²",
            "σ² / mean²",
            "b var(b) / σ²",
        ],
        rows=rows,
        notes=[
            f"σ²: variance of the hypergradient over {origin['tasks_measured']} tasks at the end "
            "of training; mean²: squared length of its expectation, without the mean's own "
            "noise; both are means over the seeds",
            "b var(b) / σ²: b times the variance of means of b tasks, over that of one task, mean "
            "over all runs; the law says 1",
            f"learning rate {origin['learning_rate']:g} for all; commit {origin['commit']}, torch "
            f"{origin['versions']['torch']}, {origin['device']}",
        ],
    )


def noise(own: Sequence[Trained], tasks: int) -> float:
    """The variance over the squared length of the expectation, which is estimated without bias."""
    squared = mean(run.gradient - run.variance / tasks for run in own)
    return mean(run.variance for run in own) / squared


def write(runs: Sequence[Trained], origin: dict[str, Any], out: Path, *, console: Console) -> None:
    """The record and the table."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "study.json", {**origin, "runs": [dataclasses.asdict(run) for run in runs]})
    draw(out, console=console)


def draw(out: Path, *, console: Console) -> None:
    """Table from the record alone."""
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    rows = table([Trained(**run) for run in record["runs"]], record)
    rows.show(console)
    write_atomically(out / "study.md", rows.markdown().encode())
