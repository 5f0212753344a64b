"""The state of a run in one file that is whole or absent, and safe to open whoever wrote it.

Tensors as safetensors, everything else as JSON in that file's header: nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor, nn

from metalearn.config.schema import parse, read
from metalearn.errors import RunError
from metalearn.files import write_atomically

_HEADER: Final = "progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSoFar:
    """The best validation: its accuracy, half its interval, and the upper step after which."""

    mean: float
    interval: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """What a checkpoint belongs to; a run goes on only if nothing of it has changed.

    Attributes:
        config: SHA-256 of the settings.
        configured: the preset they lead to, with its numbers.
        data: SHA-256 of the data.
    """

    config: str
    configured: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, besides its tensors.

    Attributes:
        key: what it belongs to.
        origin: commit of the code that has run so far, and whether code differed from it.
        step: upper steps taken.
        seen: certificates collected.
        metrics: lines written to the metrics.
        validated: the upper step of the last validation.
        stale: validations since the best.
        seconds: spent, over all parts of the run.
        best: the best validation so far.
        optimiser: its parameter groups.
        schedule: state of the learning rate's schedule.
        scaler: state of the gradient scaler; empty if there is none.
    """

    key: RunKey
    origin: dict[str, Any]
    step: int
    seen: int
    metrics: int
    validated: int
    stale: int
    seconds: float
    best: BestSoFar | None
    optimiser: list[dict[str, Any]]
    schedule: dict[str, Any]
    scaler: dict[str, Any]


def save(path: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
    """Write a checkpoint in place of an earlier one.

    Raises:
        RunError: the folder can't be written to; the earlier one is still there.
    """
    text = json.dumps(dataclasses.asdict(progress), allow_nan=False)
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={_HEADER: text},
    )
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(
            f"{path} can't be written ({error}): free or mount the disk, then continue with "
            f"--resume {path.parent}. An earlier checkpoint is as it was."
        ) from error


def load(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a checkpoint.

    Raises:
        RunError: it is unreadable or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = read(Progress, parse(metadata.get(_HEADER, "null")), "it")
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise RunError(
            f"the checkpoint {path} is unreadable or damaged ({error}): start the run again."
        ) from error
    return tensors, progress


def digest(model: nn.Module) -> bytes:
    """SHA-256 of a model's weights, bit by bit."""
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.digest()
