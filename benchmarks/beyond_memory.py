"""Training on images that take more room than memory.

    OMP_NUM_THREADS=1 python -m benchmarks.beyond_memory --gib 64 \
        --out benchmarks/results/beyond_memory.json

A prepared data set is made whose training images are a sparse file: all holes but a few images of
each class, so that it takes no disk. Reading a hole costs the page cache a page like any other and
the disk nothing: the throughput is that of an infinitely fast disk. The start, which checks every
file against its SHA-256, reads all of it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from metalearn.config.choices import Split
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.data.complete import Sizes
from metalearn.data.store import FORMAT, MANIFEST, described_arrays, open_store
from metalearn.files import described, write_json
from metalearn.runs import provenance
from metalearn.training.build import identity
from metalearn.training.state import Training

SIDE, CHANNELS, CLASSES, REAL = 84, 3, 64, 4
_IMAGE = SIDE * SIDE * CHANNELS


@dataclass(frozen=True, slots=True)
class Trained:
    """Time and memory of training on the set.

    Attributes:
        bytes: bytes of the training images.
        on_disk: bytes that they take.
        memory: bytes of the machine.
        checked_seconds: to check the files at the start.
        steps: upper steps.
        tasks_per_second: in them.
        anonymous: bytes of private memory after the steps.
        anonymous_growth: bytes of private memory more after the steps than after the first.
        resident_growth: bytes of resident memory likewise; pages of the file can be taken back.
        peak_resident: bytes of the process.
    """

    bytes: int
    on_disk: int
    memory: int
    checked_seconds: float
    steps: int
    tasks_per_second: float
    anonymous: int
    anonymous_growth: int
    resident_growth: int
    peak_resident: int


def sparse_store(folder: Path, size: int) -> None:
    """A miniImageNet-like set whose training images take `size` bytes, nearly all of them holes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    examples: dict[Split, int]
    examples = {"train": size // (CLASSES * _IMAGE), "validation": 20, "test": 20}
    files: dict[str, dict[str, int | str]] = {}
    for split, count in examples.items():
        shape = (CLASSES, count, CHANNELS, SIDE, SIDE)
        images = folder / f"{split}.images.npy"
        mapped = np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=shape)
        mapped[:, :REAL] = rng.integers(0, 256, (CLASSES, REAL, *shape[2:]), dtype=np.uint8)
        mapped.flush()
        del mapped
        counts = folder / f"{split}.counts.npy"
        np.save(counts, np.full(CLASSES, count, np.int64))
        files |= {path.name: described(path) for path in (images, counts)}
    sizes: Sizes = {
        split: [(f"{split}-{index}", count) for index in range(CLASSES)]
        for split, count in examples.items()
    }
    arrays = described_arrays(sizes, side=SIDE, channels=CHANNELS)
    write_json(folder / MANIFEST, {"format": FORMAT, **arrays, "files": files})
    open_store(folder)


def resident() -> dict[str, int]:
    """Bytes of resident memory of this process: private and of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split() for line in lines if line.startswith("Rss")}
    return {name: int(words[1]) * 1024 for name, words in found.items()}


def trained(root: Path, *, steps: int) -> Trained:
    """Train on `root`/miniimagenet for some steps."""
    config = TrainConfig().replace(
        data="miniimagenet",
        data_root=root,
        filters=8,
        method="protonet",
        train=EpisodeShape(way=5, shot=1, query=3),
        tasks_per_step=2,
        normalisation="transductive",
        steps=steps + 1,
        threads=1,
        device="cpu",
    )
    began = time.perf_counter()
    identity(config)
    checked = time.perf_counter() - began
    training = Training(config, torch.device("cpu"))
    training.advance()
    before, began = resident(), time.perf_counter()
    for _ in range(steps):
        training.advance()
    spent, after = time.perf_counter() - began, resident()
    images = root / "miniimagenet" / "train.images.npy"
    return Trained(
        bytes=images.stat().st_size,
        on_disk=images.stat().st_blocks * 512,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        checked_seconds=checked,
        steps=steps,
        tasks_per_second=steps * training.tasks / spent,
        anonymous=after["RssAnon"],
        anonymous_growth=after["RssAnon"] - before["RssAnon"],
        resident_growth=sum(after.values()) - sum(before.values()),
        peak_resident=provenance.peak_resident(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=64.0)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    origin = provenance.commit()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        sparse_store(root / "miniimagenet", int(options.gib * 2**30))
        found = trained(root, steps=options.steps)
    device = provenance.device_name(torch.device("cpu"))
    versions = provenance.versions()
    record = asdict(found) | origin | {"versions": versions, "device": device, "seed": 0}
    write_json(options.out, record)
    print(record)


if __name__ == "__main__":
    main()
