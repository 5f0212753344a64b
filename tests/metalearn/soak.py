"""`python -m tests.metalearn.soak --minutes 60`: does a long run keep what it should let go?

Trains on glyphs without end, validating and saving as runs do, and looks at the process every 20
steps: resident memory, whose slope over the second half is to be below 1 MiB in 1,000 steps, and
open files, whose number is not to grow. Before each look the collector runs, and where the
allocator is glibc's it gives its free pages back: what stays is what something holds on to. Free
pages come and go by tens of MiB, and their noise hid slopes of that size.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metalearn.config.train import TrainConfig
from metalearn.files import write_json
from metalearn.runs import provenance
from metalearn.training import checkpoint
from metalearn.training.checkpoint import RunKey
from metalearn.training.state import Training

EVERY = 20
MOST = 2**20  # bytes of growth in 1,000 steps
_KEY = RunKey(config="", configured="", backbone="", data="")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the process.

    Attributes:
        step: upper steps before it.
        resident: bytes.
        files: open ones.
    """

    step: int
    resident: int
    files: int


def look(step: int) -> Look:
    gc.collect()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(step, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")))


def soak(seconds: float, config: TrainConfig, folder: Path) -> list[Look]:
    """Train for so long, and look."""
    training = Training(config, torch.device("cpu"))
    until, found = time.monotonic() + seconds, []
    while time.monotonic() < until and not training.done:
        training.advance()
        if training.step % EVERY == 0:
            training.look(EVERY)
            training.validate()
            state = training.state(key=_KEY, origin={}, metrics=0, seconds=0.0)
            checkpoint.save(folder / "checkpoint.safetensors", *state)
            found.append(look(training.step))
    return found


def slope(looks: list[Look]) -> float:
    """Bytes of growth in 1,000 steps, by least squares over the second half."""
    half = looks[len(looks) // 2 :]
    steps, sizes = [one.step for one in half], [one.resident for one in half]
    return float(np.polyfit(steps, sizes, 1)[0]) * 1000


def grew(looks: list[Look]) -> dict[str, Any]:
    """What a soak says."""
    half = looks[len(looks) // 2]
    return {
        "steps": looks[-1].step,
        "bytes_per_1000_steps": slope(looks),
        "files_at_half_time": half.files,
        "files_at_the_end": looks[-1].files,
        "kept": slope(looks) > MOST or looks[-1].files > half.files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    origin = provenance.commit()
    torch.set_num_threads(1)
    # buffers for the certificates of all steps are made at the start
    config = TrainConfig().replace(steps=1_000_000, threads=1, device="cpu", validation_episodes=20)
    with tempfile.TemporaryDirectory() as place:
        looks = soak(60 * options.minutes, config, Path(place))
    if len(looks) < 4:
        sys.exit(f"{len(looks)} looks are too few: give more --minutes.")
    record = grew(looks) | {
        "minutes": options.minutes,
        "looks": [[one.step, one.resident, one.files] for one in looks],
        **origin,
        "versions": provenance.versions(),
        "seed": config.run.seed,
    }
    sys.stdout.write(f"{ {k: v for k, v in record.items() if k != 'looks'} }\n")
    if options.out is not None:
        write_json(options.out, record)
    sys.exit(1 if record["kept"] else 0)


if __name__ == "__main__":
    main()
