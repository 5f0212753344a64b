"""Upper steps of many tasks, relative to one forward and one backward of the backbone.

    python -m benchmarks.limit --out benchmarks/results/limit.json

For each setting: time and peak bytes of memory-reduced steps over those of the backbone's own pass
on the same images, all tasks at once; then in chunks of eight tasks, plain and streamed; and the
peak of streamed steps of 32 and of 1,024 tasks, whose images are drawn chunk by chunk as in
training.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.costs import cost
from benchmarks.fewshot import SETTINGS, WAY, Setting, Step, backbone_pass, method
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, keep_pages, ratios, spread
from metalearn.data import Pool
from metalearn.memory import LiveBytes
from metalearn.tasks.episodes import Sampler, chunked
from metalearn.tasks.stream import drawn
from metalearn.training.step import accumulate

METHOD = "memory-reduced"
CHUNK = 8  # tasks; with fewer, the small calls of the heads show
CLASSES, EXAMPLES = 20, 10  # of the pool that streamed steps draw from


def steps(setting: Setting, few: int, many: int) -> dict[str, Step]:
    """The contenders beside the backbone's pass."""
    return {
        f"K = N = {few}": Step(method(METHOD, few), setting),
        f"K = N = {many}": Step(method(METHOD, many), setting),
        f"K = N = {few}, {CHUNK} tasks at a time": Step(
            method(METHOD, few), setting, tasks_per_chunk=CHUNK
        ),
        f"K = N = {few}, {CHUNK} tasks at a time, streamed": Step(
            method(METHOD, few), setting, tasks_per_chunk=CHUNK, streamed=True
        ),
    }


def measure(setting: Setting, *, few: int, many: int, rounds: int) -> dict[str, object]:
    """Counts, then times in turns."""
    backbone, alone = backbone_pass(setting)
    images = setting.episodes().images
    limit = cost(alone, [*backbone.parameters(), images])
    every = steps(setting, few, many)
    counted = [cost(step, [*step.parameters(), step.episodes.images]) for step in every.values()]
    times = ratios(interleaved([alone, *every.values()], rounds=rounds))
    return {
        **dataclasses.asdict(setting),
        "rounds": rounds,
        "rows": [
            {
                "name": name,
                "time": dataclasses.asdict(time),
                "bytes": spent.peak_bytes / limit.peak_bytes,
                "peak_bytes": spent.peak_bytes,
            }
            for name, time, spent in zip(
                ["backbone's forward and backward", *every],
                times,
                [limit, *counted],
                strict=True,
            )
        ],
    }


def streamed_peak(setting: Setting, tasks: int, *, few: int) -> int:
    """Peak live bytes of a streamed step in chunks, the pool's images included."""
    generator = torch.Generator().manual_seed(0)
    shape = (CLASSES, EXAMPLES, 3, setting.side, setting.side)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    names = tuple(str(index) for index in range(CLASSES))
    pool = Pool(images=pixels, split="train", names=names)
    sampler = Sampler(pool=pool, way=WAY, shot=setting.shot, query=setting.query, seed=0)
    subject = method(METHOD, few)
    model = setting.model(subject, streamed=True)
    with LiveBytes([*model.parameters(), pixels]) as live:
        accumulate(
            subject,
            model,
            drawn(sampler, chunked(range(tasks), CHUNK)),
            tasks=tasks,
            watch=lambda certificate: None,
        )
    peak: int = live.peak
    return peak


def table(found: dict[str, object]) -> Table:
    """For a terminal."""
    made = Table(title=f"{found['name']}: {found['tasks']} tasks, over the backbone's pass")
    for index, column in enumerate(("", "time", "(quartiles)", "peak bytes")):
        made.add_column(column, justify="right" if index else "left")
    rows = found["rows"]
    assert isinstance(rows, list)
    for one in rows:
        made.add_row(one["name"], *spread(one["time"], digits=3), f"{one['bytes']:.3f}")
    return made


def main() -> None:
    conv4 = [name for name, setting in SETTINGS.items() if setting.filters is not None]
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--settings", nargs="+", choices=conv4, default=conv4)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--many-tasks", type=int, default=1024, help="of a streamed step")
    parser.add_argument("--steps", type=int, nargs=2, default=(20, 100), help="values of K = N")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    kept = keep_pages()
    settings: list[dict[str, object]] = []
    origin = provenance() | {"allocator_keeps_pages": kept}
    console = Console(width=110)
    for name in asked.settings:
        setting = dataclasses.replace(SETTINGS[name], tasks=asked.tasks)
        few, many = asked.steps
        one = measure(setting, few=few, many=many, rounds=asked.rounds)
        one["streamed_peak_bytes"] = {
            tasks: streamed_peak(setting, tasks, few=few)
            for tasks in (asked.tasks, asked.many_tasks)
        }
        settings.append(one)
        write(asked.out, {"provenance": origin, "settings": settings})
        console.print(table(one))
        console.print(f"streamed: {one['streamed_peak_bytes']} peak bytes by tasks")


if __name__ == "__main__":
    main()
