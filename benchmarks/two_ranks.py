"""Tasks a second of two ranks against one, each on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.two_ranks --out benchmarks/results/two_ranks.json

The same training (the default method on glyphs), one rank and two in turn, five times: what counts
is the median over rounds of the ratio within a round. Where two processes don't get two cores, the
ratio says nothing about the program: the record holds the ratio of two unrelated busy processes to
one beside it, which is the most that the machine gave at that time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch

from benchmarks.local_ranks import on_ranks
from metalearn.config.train import TrainConfig, to_json
from metalearn.distributed import World
from metalearn.files import write_json
from metalearn.runs import provenance
from metalearn.training.state import Training

CONFIG = TrainConfig().replace(
    tasks_per_step=8, steps=1000, normalisation="transductive", threads=1, device="cpu"
)


def tasks_per_second(world: World, steps: int) -> float:
    training = Training(CONFIG, torch.device("cpu"), world)
    for _ in range(3):
        training.advance()
    world.most(0, "the start of the clock")
    began = time.perf_counter()
    for _ in range(steps):
        training.advance()
    return steps * training.tasks / (time.perf_counter() - began)


def busy(world: World, seconds: float) -> float:
    """Products a second of all ranks, which do nothing together."""
    values = torch.randn(192, 192)
    world.most(0, "the start of the clock")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        values @ values
        count += 1
    return float(world.total(torch.tensor(float(count)), "products")) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    origin = provenance.commit()
    rounds = []
    for _ in range(options.rounds):
        one, two = (on_ranks(size, tasks_per_second, options.steps) for size in (1, 2))
        alone, both = (on_ranks(size, busy, 2.0) for size in (1, 2))
        rounds.append({"one": one, "two": two, "ratio": two / one, "machine": both / alone})
        print(rounds[-1])
    record = {
        "rounds": rounds,
        "median_ratio": statistics.median(r["ratio"] for r in rounds),
        "median_ratio_of_unrelated_processes": statistics.median(r["machine"] for r in rounds),
        "unit": "tasks a second",
        "load_average_at_the_end": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "config": to_json(CONFIG),
        "steps": options.steps,
        **origin,
        "versions": provenance.versions(),
        "device": provenance.device_name(torch.device("cpu")),
    }
    write_json(options.out, record)
    print(record["median_ratio"], record["median_ratio_of_unrelated_processes"])


if __name__ == "__main__":
    main()
