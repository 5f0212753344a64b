"""Cost of a sum over ranks on this machine: DDP's hooks against one explicit sum.

    OMP_NUM_THREADS=1 python -m benchmarks.allreduce --out benchmarks/results/allreduce.json

First `all_reduce` of gloo between processes of this machine, by size: the least-squares fit of
alpha + beta bytes, weighted so that relative errors count. Then whole steps of two ranks (forward,
backward, sum; no optimiser) of each backbone, DDP and the explicit bucket in turn, in one process
group: what counts is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.local_ranks import on_ranks
from metalearn.backbones import Conv4, ResNet12
from metalearn.distributed import World
from metalearn.files import write_json
from metalearn.runs import provenance

BYTES = [2**power for power in range(8, 27, 2)]
IMAGES = {"conv4": (28, 1), "resnet12": (32, 3)}


def sums(world: World, rounds: int) -> dict[int, float]:
    """Median seconds of a sum, by bytes of each rank."""
    found = {}
    for size in BYTES:
        values = torch.ones(size // 4)
        times = []
        for _ in range(rounds):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - began)
            values.fill_(1.0)
        found[size] = statistics.median(times)
    return found


def fitted(seconds: dict[int, float]) -> dict[str, float]:
    """alpha in seconds, 1/beta in bytes a second, and the largest relative misfit."""
    sizes, times = np.array(list(seconds)), np.array(list(seconds.values()))
    rows = np.stack([1 / times, sizes / times], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)
    misfit = np.abs(rows @ [alpha, beta] - 1).max()
    return {
        "alpha_seconds": float(alpha),
        "bytes_per_second": float(1 / beta),
        "largest_relative_misfit": float(misfit),
    }


def backbone(name: str) -> Conv4 | ResNet12:
    side, channels = IMAGES[name]
    if name == "conv4":
        return Conv4(filters=32, channels=channels, size=side)
    return ResNet12(channels=channels, size=side, normalisation="transductive", drop_rate=0.0)


def hooks_or_bucket(world: World, name: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step by DDP and by the explicit bucket, in turn."""
    torch.manual_seed(0)
    side, channels = IMAGES[name]
    explicit, hooked = backbone(name), backbone(name)
    hooked.load_state_dict(explicit.state_dict())
    parallel = DistributedDataParallel(hooked, gradient_as_bucket_view=True)
    images = torch.rand(1, 10, channels, side, side)

    def loss(model: nn.Module) -> Tensor:
        found: Tensor = model(images, 5)
        return found.square().mean()

    def by_hooks() -> None:
        parallel.zero_grad(set_to_none=True)
        loss(parallel).backward()

    def by_bucket() -> None:
        explicit.zero_grad(set_to_none=True)
        loss(explicit).backward()
        gradients = [p.grad for p in explicit.parameters() if p.grad is not None]
        bucket = torch.cat([g.flatten() for g in gradients]).mul_(1 / world.size)
        bucket = world.total(bucket, "the bucket")
        parts = bucket.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def timed(step: Callable[[], None]) -> float:
        dist.barrier()
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    pairs = [(timed(by_hooks), timed(by_bucket)) for _ in range(rounds + 2)][2:]
    # both are the mean of the ranks' gradients
    gap = max(
        float((a.grad - b.grad).abs().max())
        for a, b in zip(explicit.parameters(), hooked.parameters(), strict=True)
        if a.grad is not None and b.grad is not None
    )
    return {
        "parameters": sum(p.numel() for p in explicit.parameters()),
        "ddp_seconds": statistics.median(pair[0] for pair in pairs),
        "bucket_seconds": statistics.median(pair[1] for pair in pairs),
        "bucket_over_ddp": statistics.median(b / a for a, b in pairs),
        "largest_difference_of_gradients": gap,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    origin = provenance.commit()
    measured = {size: on_ranks(size, sums, options.rounds) for size in (2, 4)}
    record = {
        "seconds": {
            f"{size} ranks": {str(count): value for count, value in found.items()}
            for size, found in measured.items()
        },
        "fit": {f"{size} ranks": fitted(found) for size, found in measured.items()},
        "ddp_or_bucket": {
            name: on_ranks(2, hooks_or_bucket, name, options.rounds) for name in IMAGES
        },
        "backend": "gloo, one machine, one thread a rank",
        "rounds": options.rounds,
        "seed": 0,
        **origin,
        "versions": provenance.versions(),
        "device": provenance.device_name(torch.device("cpu")),
    }
    write_json(options.out, record)
    print(record["fit"], record["ddp_or_bucket"])


if __name__ == "__main__":
    main()
