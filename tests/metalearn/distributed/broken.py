"""What the ranks of the fault tests do: the command line, with something broken under it."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import metalearn.training.state
import metalearn.training.step
from metalearn.cli import main
from metalearn.training.certificates import Certificates
from metalearn.training.reference import Exactness, exactness

Gradient = Callable[..., Any]


def _replace(name: str, broken: Callable[..., Any]) -> None:
    """Break a part of the upper step for several ranks, and for the step that counts memory."""
    for module in (metalearn.training.state, metalearn.training.step):
        mock.patch.object(module, name, broken).start()


def _at(step: int, rank: int, happens: Callable[[], None], *, factor: float = 1.0) -> None:
    """Let something happen on one rank before its upper gradient of this step.

    Args:
        step: from 1; 0: before the first.
        rank: which.
        happens: the fault.
        factor: of that step's loss.
    """
    honest: Gradient = metalearn.training.step.accumulate
    count = 0

    def accumulate(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        # the first call is the one that counts memory
        now = count == step + 1 and int(os.environ["RANK"]) == rank
        if now:
            happens()
        return honest(*arguments, **named) * (factor if now else 1.0)

    _replace("accumulate", accumulate)


def nan(step: int, rank: int, *arguments: str) -> None:
    _at(step, rank, lambda: None, factor=math.nan)
    main(["train", *arguments])


def out_of_memory(step: int, rank: int, *arguments: str) -> None:
    def happens() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    _at(step, rank, happens)
    main(["train", *arguments])


def too_large(step: int, rank: int, *arguments: str) -> None:
    """Honestly too much for the CPU's allocator."""

    def happens() -> None:
        torch.empty(2**60, dtype=torch.uint8)

    _at(step, rank, happens)
    main(["train", *arguments])


def hung(step: int, rank: int, *arguments: str) -> None:
    _at(step, rank, lambda: time.sleep(600))
    main(["train", *arguments])


def file_limit(step: int, rank: int, *arguments: str) -> None:
    """No file may grow beyond a page: what a full disk looks like to a process without a disk."""

    def happens() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    _at(step, rank, happens)
    main(["train", *arguments])


def full_disk(step: int, rank: int, *arguments: str) -> None:
    def fsync(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _at(step, rank, lambda: setattr(os, "fsync", fsync))
    main(["train", *arguments])


def read_only(step: int, rank: int, *arguments: str) -> None:
    """The run folder, or where it is to be made, can be written to no more."""
    run = Path(arguments[0].removeprefix("--run="))

    def happens() -> None:
        (run if run.exists() else run.parent).chmod(0o555)
        if os.geteuid() == 0:  # whom modes don't stop
            os.seteuid(65534)

    _at(step, rank, happens)
    main(["train", *arguments])


def changed_data(step: int, rank: int, image: Path, *arguments: str) -> None:
    """One byte of a prepared data set becomes another while the run lasts."""

    def happens() -> None:
        with image.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    _at(step, rank, happens)
    main(["train", *arguments])


def other_weights(step: int, rank: int, *arguments: str) -> None:
    """What faulty hardware does: one bit of one weight on one rank."""
    honest: Gradient = metalearn.training.step.descend
    count = 0

    def descend(optimiser: torch.optim.Optimizer, *scaler: Any) -> None:
        nonlocal count
        count += 1
        honest(optimiser, *scaler)
        if count == step + 1 and int(os.environ["RANK"]) == rank:
            weight = optimiser.param_groups[0]["params"][0]
            weight.data.view(torch.int32).view(-1)[0] ^= 1

    _replace("descend", descend)
    main(["train", *arguments])


def nan_residual(step: int, noted: Path, *arguments: str) -> None:
    """What all ranks hold of the last task of a step is NaN, as if it had been exchanged so.

    Each measurement of the hypergradient's error is noted in a file, with its rank.
    """
    honest = Certificates.add

    def add(certificates: Certificates, rows: torch.Tensor) -> None:
        honest(certificates, rows)
        if certificates.seen == step * certificates.tasks:
            certificates._residual[certificates.seen - 1] = math.nan

    def measured(*arguments: Any, **named: Any) -> Any:
        with noted.open("a") as file:
            file.write(f"rank {os.environ['RANK']}\n")
        return exactness(*arguments, **named)

    mock.patch.object(Certificates, "add", add).start()
    mock.patch.object(metalearn.training.state, "exactness", measured).start()
    main(["train", *arguments])


def nan_error(*arguments: str) -> None:
    """The hypergradient's error is NaN on the rank that measures it."""
    found = Exactness(error=math.nan, cosine=math.nan)
    mock.patch.object(metalearn.training.state, "exactness", return_value=found).start()
    main(["train", *arguments])


def other_settings(folder: Path, *arguments: str) -> None:
    """Rank 1 was started by another command."""
    own = f"--seed={os.environ['RANK']}"
    main(["train", f"--run={folder}", *arguments, own])


def nothing_broken(*arguments: str) -> None:
    main(["train", *arguments])


def events(run: Path) -> list[str]:
    lines = (run / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]
