"""Loggers of metrics while a run lasts: TensorBoard, Weights & Biases, or none."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch.utils.tensorboard import SummaryWriter

from metalearn.config.choices import TrackerName
from metalearn.errors import ConfigError


@runtime_checkable
class Tracker(Protocol):
    """Takes scalars as they come."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured after `step` upper steps."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class TensorBoard:
    """An event file in the run's folder.

    Args:
        folder: folder of the run.
        step: upper steps already taken; what an earlier part of the run wrote beyond is dropped.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, by the `wandb` package if it is installed.

    Args:
        folder: folder of the run; its name is that of the run there, too.
        settings: settings of the run.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        # an id of the folder's own, so that a resumed run is the same run there
        self._run = wandb.init(
            dir=str(folder),
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            name=folder.name,
            config=dict(settings),
            resume="allow",
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class Nowhere:
    """Takes scalars and keeps none."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""

    def close(self) -> None:
        """See `Tracker`."""


def require_package(name: TrackerName) -> None:
    """Raise if the package of a tracker is not installed, before anything is begun.

    Raises:
        ConfigError: naming the package.
    """
    if name == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "tracker was given as wandb, which is not installed: pip install wandb, or choose "
            "tensorboard."
        )


def tracker(name: TrackerName, folder: Path, *, step: int, settings: Mapping[str, Any]) -> Tracker:
    """The tracker of this name, whose package must be there: see `require_package`."""
    if name == "wandb":
        return WeightsAndBiases(folder, settings)
    return TensorBoard(folder, step=step) if name == "tensorboard" else Nowhere()
