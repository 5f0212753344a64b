"""Few-shot steps: every method at every K, over the backbone's own forward and backward.

    python -m benchmarks.steps --out benchmarks/results/steps.json
    python -m benchmarks.steps --device cuda --out benchmarks/results/steps-cuda.json

For each setting, method and K: time and peak bytes over those of one forward and one backward of
the backbone on the same images, what was counted, and how well both levels were solved. Rows whose
graph would not fit into `--memory` are left out and named; their bytes are known from two smaller K
(docs/performance.md: they are affine in K).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.costs import Cost, cost
from benchmarks.fewshot import (
    METHODS,
    SETTINGS,
    STEPS,
    Setting,
    Step,
    backbone_pass,
    method,
    takes_steps,
)
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, keep_pages, ratios

Row = dict[str, object]


def rows(
    setting: Setting,
    methods: Iterable[str],
    steps: Iterable[int],
    *,
    rounds: int,
    device: str,
    memory: int,
) -> list[Row]:
    """Measure; a method's K in rising order, until the next would not fit."""
    backbone, alone = backbone_pass(setting, device=device)
    alone()
    limit = cost(alone, [*backbone.parameters(), setting.episodes(device=device).images])
    found: list[Row] = []
    for name in methods:
        known: list[tuple[int, int]] = []
        for count in sorted(steps) if takes_steps(name) else [0]:
            if _predicted(known, count) > memory:
                found.append({"method": name, "K": count, "left_out": "more than --memory"})
                continue
            step = Step(method(name, count), setting, device=device)
            step()
            spent = cost(step, [*step.parameters(), step.episodes.images])
            known.append((count, spent.peak_bytes))
            times = interleaved([alone, step], rounds=rounds, cuda=device == "cuda")
            found.append(
                {
                    "method": name,
                    "K": count if takes_steps(name) else None,
                    "time": dataclasses.asdict(ratios(times)[1]),
                    "bytes": spent.peak_bytes / limit.peak_bytes,
                    "passes": _passes(spent, limit),
                    "products": step.products(),
                    "residual": step.residual(),
                    "counted": dataclasses.asdict(spent),
                }
            )
    return found


def _predicted(known: list[tuple[int, int]], steps: int) -> float:
    if len(known) < 2:
        return 0.0
    (first, less), (second, more) = known[-2:]
    return more + (more - less) / (second - first) * (steps - second)


def _passes(spent: Cost, limit: Cost) -> float:
    return (spent.forward + spent.backward) / (limit.forward + limit.backward)


def table(setting: Setting, found: list[Row]) -> Table:
    """For a terminal."""
    made = Table(
        title=f"{setting.name}: {setting.tasks} tasks, 5-way {setting.shot}-shot, {setting.query} "
        "queries a class; over the backbone's own forward and backward"
    )
    for index, column in enumerate(("method", "K", "time", "bytes", "passes", "residual")):
        made.add_column(column, justify="right" if index else "left")
    for row in found:
        steps = "" if row["K"] is None else str(row["K"])
        if "left_out" in row:
            made.add_row(str(row["method"]), steps, str(row["left_out"]))
            continue
        time, residual = row["time"], row["residual"]
        assert isinstance(time, dict)
        made.add_row(
            str(row["method"]),
            steps,
            f"{time['median']:.2f}",
            f"{row['bytes']:.2f}",
            f"{row['passes']:.1f}",
            "" if residual is None else f"{residual:.0e}",
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="values of K")
    parser.add_argument("--tasks", type=int, help="of a step; default: the setting's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, default=8.0, help="GiB that a step may take")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    kept = keep_pages()
    console = Console(width=100)
    found: dict[str, object] = {
        "provenance": provenance(asked.device) | {"allocator_keeps_pages": kept},
        "settings": {},
    }
    for name in asked.settings:
        setting = SETTINGS[name]
        if asked.tasks is not None:
            setting = dataclasses.replace(setting, tasks=asked.tasks)
        own = rows(
            setting,
            asked.methods,
            asked.steps,
            rounds=asked.rounds,
            device=asked.device,
            memory=int(asked.memory * 2**30),
        )
        assert isinstance(found["settings"], dict)
        found["settings"][name] = {**dataclasses.asdict(setting), "rows": own}
        write(asked.out, found)  # after each, so that a run that is stopped leaves something
        console.print(table(setting, own))


if __name__ == "__main__":
    main()
