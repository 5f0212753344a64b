"""Predicted efficiency of task-parallel training, for docs/scaling.md.

    python -m benchmarks.scaling --out benchmarks/results/scaling.json

A step of P GPUs with t tasks each takes `t F / R` seconds of computing, F the operations of a task
(counted, forward and backward of the backbone) and R the operations a second that are sustained,
and then a sum of the gradients' bytes n. NCCL takes the faster of ring and tree:

    ring   2 (P - 1) alpha + 2 (P - 1)/P n / bandwidth
    tree   2 log2(P) alpha + 2 n / bandwidth

and adds a sum of the evidence, `8 (4 t P + 3 P)` bytes, by the same formula. Nothing overlaps. The
numbers of `Machine` and `rate` are ASSUMPTIONS (no GPU was measured): put your own there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from metalearn.backbones import Conv4, ResNet12
from metalearn.files import write_json
from metalearn.runs import provenance

IMAGES = 5 * (1 + 15)  # of a 5-way 1-shot task with 15 queries a class
GPUS = (1, 2, 4, 8, 16, 64, 256, 1024)


@dataclass(frozen=True, slots=True)
class Machine:
    """Assumptions on nodes of 8 GPUs.

    Attributes:
        inside: bytes a second of each GPU to the others of its node.
        between: bytes a second of each GPU to other nodes.
        inside_alpha: seconds of a message inside a node.
        between_alpha: seconds of a message between nodes.
    """

    inside: float = 300e9
    between: float = 40e9
    inside_alpha: float = 5e-6
    between_alpha: float = 15e-6

    def seconds(self, gpus: int, count: float) -> float:
        """Seconds of a sum of so many bytes over so many GPUs."""
        if gpus == 1:
            return 0.0
        near = gpus <= 8
        alpha = self.inside_alpha if near else self.between_alpha
        moved = 2 * count / (self.inside if near else self.between)
        ring = 2 * (gpus - 1) * alpha + (gpus - 1) / gpus * moved
        return min(ring, 2 * math.log2(gpus) * alpha + moved)


@dataclass(frozen=True, slots=True)
class Subject:
    """A backbone.

    Attributes:
        parameters: number of parameters, 4 bytes each.
        task: operations of one task, forward and backward.
        rate: operations a second that a GPU is assumed to sustain on it.
    """

    parameters: int
    task: float
    rate: float

    def efficiency(self, machine: Machine, gpus: int, tasks: int) -> float:
        """Part of a step in which GPUs with so many tasks each compute."""
        computing = tasks * self.task / self.rate
        evidence = 8 * (4 * tasks * gpus + 3 * gpus)
        talking = machine.seconds(gpus, 4 * self.parameters) + machine.seconds(gpus, evidence)
        return computing / (computing + talking)


def counted(make: Callable[[], Conv4 | ResNet12], rate: float) -> Subject:
    """Operations counted on one task of 84-pixel images, without computing any."""
    with torch.device("meta"):
        model = make()
        images = torch.empty(1, IMAGES, 3, 84, 84)
    with FlopCounterMode(display=False) as counter:
        features: torch.Tensor = model(images, 5)
        features.sum().backward()
    return Subject(sum(p.numel() for p in model.parameters()), counter.get_total_flops(), rate)


def subjects() -> dict[str, Subject]:
    """The three of the page."""
    tokens = (224 // 16) ** 2 + 1
    return {
        "Conv4-64": counted(lambda: Conv4(filters=64, channels=3, size=84), 20e12),
        "ResNet-12": counted(lambda: ResNet12(channels=3, size=84, drop_rate=0.0), 80e12),
        # a transformer of 16-pixel patches: 6 operations for each parameter and token
        "100M": Subject(100_000_000, 6.0 * 100e6 * tokens * IMAGES, 200e12),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    origin, machine, found = provenance.commit(), Machine(), subjects()
    table = {
        name: {
            f"{tasks} tasks a GPU": {
                str(gpus): round(subject.efficiency(machine, gpus, tasks), 3) for gpus in GPUS
            }
            for tasks in (1, 4, 16)
        }
        for name, subject in found.items()
    }
    record = {
        "efficiency": table,
        "subjects": {name: asdict(subject) for name, subject in found.items()},
        "assumed": asdict(machine),
        **origin,
        "versions": provenance.versions(),
    }
    write_json(options.out, record)
    for name, rows in table.items():
        subject = found[name]
        print(f"{name}: {subject.parameters} parameters, {subject.task:.3g} operations a task")
        for tasks, row in rows.items():
            print(f"  {tasks}: {row}")


if __name__ == "__main__":
    main()
