"""The state of a run in one file that is whole or absent, and safe to open whoever wrote it.

Tensors as safetensors, everything else as JSON in that file's header: nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import safetensors
import safetensors.torch
import torch
from torch import Size, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metalearn.config.schema import parse, read
from metalearn.config.train import TrainConfig
from metalearn.errors import RunError
from metalearn.files import write_atomically

_HEADER: Final = "progress"
# JSON has one kind of number, and one of sequence.
_ALIKE: Final = ((float, int), (list, tuple))


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSoFar:
    """The best validation: accuracy, half its interval, and the upper step before it."""

    mean: float
    interval: float
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Identity of a run; a checkpoint is resumed only if none of it has changed.

    Attributes:
        config: SHA-256 of the settings.
        configured: the preset they lead to, with its numbers.
        backbone: its name, with its structure if it is not built in.
        data: SHA-256 of the data.
    """

    config: str
    configured: str
    backbone: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """State of a run, besides its tensors.

    Attributes:
        key: the run's identity.
        origin: commit of the code that has run so far, and if the code differed from it.
        step: upper steps taken.
        seen: certificates collected.
        metrics: lines written to the metrics.
        validated: the upper step of the last validation.
        stale: validations since the best.
        seconds: spent, over all parts of the run.
        best: the best validation so far.
        optimiser: the optimiser's parameter groups.
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
    content = safetensors.torch.save(_apart(tensors), metadata={_HEADER: text})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise RunError(
            f"{path} can't be written ({error}): free or mount the disk, then continue with "
            f"--resume {path.parent}. An earlier checkpoint is as it was."
        ) from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, each in memory of its own: weights may have two names."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in taken else value
        taken.add(place)
    return found


def load(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Read a checkpoint.

    Raises:
        RunError: the file is unreadable or damaged.
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
        # as bytes: numpy has no bfloat16
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.digest()


def require_same_run(path: Path, before: RunKey, now: RunKey, config: TrainConfig) -> None:
    """Raise unless a checkpoint is of the run that goes on.

    Args:
        path: the checkpoint.
        before: identity of the run that wrote it.
        now: identity of the run that goes on.
        config: settings of the run that goes on.

    Raises:
        RunError: naming what has changed.
    """
    if before.config != now.config:
        raise RunError(
            f"{path} belongs to other settings than those in {path.parent}: "
            "put config.json back as it was."
        )
    if before.configured != now.configured:
        raise RunError(
            f"{path} was made when method {config.method.name} meant {before.configured}; it now "
            f"means {now.configured}: go on with the code of then."
        )
    if before.backbone != now.backbone:
        raise RunError(
            f"{path} was made with the backbone {before.backbone}; it is now {now.backbone}: go on "
            "with the code, or the module, of then."
        )
    if before.data != now.data:
        raise RunError(
            f"{path} was made with other data: SHA-256 {before.data} then, {now.data} now. Prepare "
            f"{config.data.name} as it was."
        )


def require_fit(
    tensors: Mapping[str, Tensor],
    progress: Progress,
    *,
    model: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
    scaler: Mapping[str, Any],
    steps: int,
    tasks: int,
) -> None:
    """Compare every name and shape of a checkpoint with what this run would have written.

    torch puts the state of optimisers and schedules in place as it comes, whatever is in it: so
    this comes first.

    Args:
        tensors: the checkpoint's.
        progress: the checkpoint's.
        model: the run's.
        optimiser: the run's.
        schedule: the run's.
        scaler: state of the run's scaler, which has taken no step.
        steps: the run's upper steps.
        tasks: tasks of one step.

    Raises:
        ValueError: naming what does not fit.
    """
    for name, value, most in (
        ("step", progress.step, steps),
        ("seen", progress.seen, steps * tasks),
        ("validated", progress.validated, progress.step),
        ("stale", progress.stale, progress.step),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, where 0 to {most} is possible")
    own = optimiser.state_dict()["param_groups"]
    _same_kinds("optimiser", dict(enumerate(progress.optimiser)), dict(enumerate(own)))
    for found, group in zip(progress.optimiser, own, strict=True):
        _same_kinds("optimiser", found, group)
        if found["params"] != group["params"]:
            raise ValueError("the optimiser's parameters are others")
    _same_kinds("schedule", progress.schedule, schedule.state_dict())
    _same_kinds("scaler", progress.scaler, scaler)
    weights = {name: value.shape for name, value in model.state_dict().items()}
    expected = {f"model.{name}": shape for name, shape in weights.items()}
    if progress.best is not None:
        expected |= {f"best.{name}": shape for name, shape in weights.items()}
    expected["losses"] = Size([progress.step])
    kept = _kept(optimiser)
    moved = any(name in tensors for name in kept)
    if progress.step > 0 and (moved or not _all_skipped(progress, scaler)):
        expected |= kept
    for name, tensor in tensors.items():
        part = name.partition(".")[0]
        shape = expected.pop(name, None)
        if part == "certificates":
            shape = Size([progress.seen])
        elif part == "generator":
            shape = tensor.shape  # judged by torch, byte by byte
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {shape} was expected")
    if expected:
        more = f", and {len(expected) - 3} more" if len(expected) > 3 else ""
        raise ValueError(f"{sorted(expected)[:3]} are missing{more}")


def _kept(optimiser: Optimizer) -> dict[str, Size]:
    """Names and shapes of an optimiser's state once it has taken a step."""
    kept = {}
    parameters = (p for group in optimiser.param_groups for p in group["params"])
    like = nn.Parameter(torch.zeros(1))  # one of its kind, on a parameter of no consequence
    like.grad = torch.zeros(1)
    (group, *_) = optimiser.param_groups
    other: Optimizer = cast(Any, type(optimiser))([{**group, "params": [like]}])
    other.step()
    state = {name: torch.as_tensor(value) for name, value in other.state[like].items()}
    for index, parameter in enumerate(parameters):
        for name, value in state.items():
            kept[f"optimiser.{index}.{name}"] = parameter.shape if value.ndim else Size()
    return kept


def _all_skipped(progress: Progress, scaler: Mapping[str, Any]) -> bool:
    """True if the scaler skipped every step so far: it lowers its scale once each time."""
    if not scaler:
        return False
    scale: float = scaler["scale"] * scaler["backoff_factor"] ** progress.step
    return bool(progress.scaler["scale"] <= scale)


def _same_kinds(name: str, found: Mapping[Any, Any], own: Mapping[Any, Any]) -> None:
    """The same fields, each of the same kind."""
    if found.keys() != own.keys():
        raise ValueError(f"the {name} has fields {sorted(found)}; {sorted(own)} were expected")
    for key, value in own.items():
        alike = next((kinds for kinds in _ALIKE if type(value) in kinds), (type(value),))
        if type(found[key]) not in alike:
            raise ValueError(f"{key} of the {name} is {found[key]!r}, where {value!r} is its kind")
