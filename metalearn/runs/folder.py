"""Folder of a run: its settings, what happened, and its result.

config.json (settings), metrics.jsonl (one line for each validation), events.jsonl (one line for
each thing that happened), TensorBoard's event file, weights.safetensors (of the best validation),
checkpoint.safetensors (the last state, to resume from), result.json, curves.png;
failure.safetensors (the state in which a run failed).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor

from metalearn.config.schema import parse, read
from metalearn.config.train import TrainConfig, from_json, to_json
from metalearn.errors import RunError
from metalearn.files import is_temporary, write_atomically, write_json
from metalearn.runs.card import Card
from metalearn.runs.card import load as load_card
from metalearn.runs.card import write as write_card
from metalearn.runs.records import Result

CONFIG: Final = "config.json"
METRICS: Final = "metrics.jsonl"
RESULT: Final = "result.json"
EVENTS: Final = "events.jsonl"
WEIGHTS: Final = "weights.safetensors"
CHECKPOINT: Final = "checkpoint.safetensors"
FAILURE: Final = "failure.safetensors"
CURVES: Final = "curves.png"


class Run:
    """Reads and writes one run folder.

    Args:
        folder: Folder of the run; `begin` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def begin(cls, config: TrainConfig) -> Run:
        """Make a new run folder and write the settings to it.

        Raises:
            RunError: the folder holds files already, or can't be written.
        """
        folder = config.run.folder
        if folder is None:
            time = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
            folder = Path("runs") / f"{config.data.name}-{config.method.name}-{time}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder)
            run.sweep()
            if any(folder.iterdir()):
                raise RunError(f"{folder} holds files already: give --run a new or empty folder.")
            write_json(folder / CONFIG, to_json(config))
        except OSError as error:
            raise RunError(
                f"{folder} can't be written to ({error}): give another --run."
            ) from error
        return run

    @property
    def begun(self) -> bool:
        """True if the folder holds the settings of a run."""
        return (self.folder / CONFIG).exists()

    def sweep(self) -> None:
        """Remove what a process left that was killed in the middle of writing a file."""
        for path in self.folder.iterdir():
            if is_temporary(path):
                path.unlink()

    @property
    def finished(self) -> bool:
        """True if the run has its result."""
        return (self.folder / RESULT).exists()

    @property
    def checkpoint(self) -> Path:
        """File of the last state, to resume from."""
        return self.folder / CHECKPOINT

    @property
    def failure(self) -> Path:
        """File of the state in which the run failed."""
        return self.folder / FAILURE

    def config(self) -> TrainConfig:
        """Settings of the run.

        Raises:
            RunError: not a run folder, or its files are damaged.
            ConfigError: the settings are not those of this version.
        """
        return from_json(self._json(CONFIG))

    def result(self) -> Result:
        """Result of the run.

        Raises:
            RunError: the run did not finish, or its files are damaged.
        """
        try:
            return read(Result, self._json(RESULT), "it")
        except ValueError as error:
            raise RunError(f"{self.folder / RESULT} is damaged: {error}.") from error

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files that the result is computed from.

        Raises:
            RunError: a file can't be read.
        """
        return {CONFIG: self.config_digest(), WEIGHTS: _digest(self._read(WEIGHTS))}

    def require_files_of(self, result: Result) -> None:
        """Raise unless settings and weights are the files that the result was computed from.

        Raises:
            RunError: a file is another, or can't be read.
        """
        for name, digest in self.digests().items():
            if result.files.get(name) != digest:
                raise RunError(
                    f"{self.folder / name} is not the file that result.json is the result of: its "
                    f"SHA-256 is {digest}, recorded is {result.files.get(name)}."
                )

    def config_digest(self) -> str:
        """SHA-256 of the settings.

        Raises:
            RunError: the settings can't be read.
        """
        return _digest(self._read(CONFIG))

    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of each validation, in order.

        Raises:
            RunError: not a run folder, or its files are damaged.
        """
        return [self._parse(METRICS, line) for line in self._read(METRICS).splitlines()]

    def weights(self) -> dict[str, Tensor]:
        """Weights of the best validation, on the CPU.

        Raises:
            RunError: not a run folder, or its files are damaged.
        """
        try:
            return safetensors.torch.load(self._read(WEIGHTS))
        except safetensors.SafetensorError as error:
            raise RunError(f"{self.folder / WEIGHTS} is damaged ({error}).") from error

    def card(self) -> Card:
        """Description of the weights: the pictures they take, their settings and versions.

        Raises:
            RunError: not a run folder, its files are damaged, or an earlier version wrote them.
        """
        self._read(WEIGHTS)  # says what kind of folder this is not
        return load_card(self.folder / WEIGHTS)[1]

    def write_result(self, result: Result) -> None:
        """Write the result."""
        write_json(self.folder / RESULT, dataclasses.asdict(result))

    def write_weights(self, weights: dict[str, Tensor], card: Card) -> None:
        """Write weights in place of earlier ones, with what they say of themselves."""
        write_card(self.folder / WEIGHTS, weights, card)

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        self._append(METRICS, metrics)

    def keep_metrics(self, lines: int) -> None:
        """Cut the metrics to their first lines, which are those that the checkpoint knows of.

        Raises:
            RunError: there are fewer.
        """
        path = self.folder / METRICS
        found = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if len(found) < lines:
            raise RunError(f"{path} has {len(found)} lines; the checkpoint knows of {lines}.")
        if len(found) > lines:
            write_atomically(path, b"".join(found[:lines]))

    def log(self, event: str, **details: Any) -> None:
        """Add one line to the events: what happened, when (UTC), and its details."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append(EVENTS, {"time": time, "event": event} | details)

    def _append(self, name: str, value: dict[str, Any]) -> None:
        # A folder from elsewhere may hold a link in this file's place, to a file outside.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(self.folder / name, flags, 0o666), "a") as file:
            file.write(json.dumps(value, allow_nan=False) + "\n")

    def _json(self, name: str) -> dict[str, Any]:
        return self._parse(name, self._read(name))

    def _parse(self, name: str, text: bytes) -> dict[str, Any]:
        try:
            value = parse(text)
        except (ValueError, RecursionError) as error:  # nested too deeply to be read
            raise RunError(f"{self.folder / name} is damaged ({error}).") from error
        if not isinstance(value, dict):
            raise RunError(f"{self.folder / name} is damaged: an object was expected.")
        return value

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise RunError(
                f"{self.folder} is no folder of a finished run: {name} is unreadable ({error})."
            ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
