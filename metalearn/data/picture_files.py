"""Picture files of a user, read in the child process that reads strangers' files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import UInt8

from metalearn.data.untrusted.child import Limits, call
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.images import decode
from metalearn.errors import DataError

_PIXELS: Final = "pixels.npy"
LARGEST: Final = 2**28
"""Bytes of the largest picture file that is read."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Pictures of files, and the reasons of those that were not read.

    Attributes:
        pixels: the pictures that were read, in the order of the files.
        places: place of each picture among the files.
        refused: reason for each place whose file is no picture.
    """

    pixels: UInt8[np.ndarray, "n side side channels"]
    places: list[int]
    refused: dict[int, str]


def read_pictures(
    files: Sequence[Path], *, side: int, channels: Literal[1, 3], inverted: bool
) -> Read:
    """Read picture files.

    Args:
        files: any files; what is no picture is refused by itself.
        side: height and width to give the pictures.
        channels: 3 for RGB, 1 for grey.
        inverted: turn dark into light.

    Raises:
        DataError: reading crashed, or took more than it may.
    """
    if not files:
        return Read(np.zeros((0, side, side, channels), np.uint8), [], {})
    total = sum(file.stat().st_size for file in files if file.is_file())
    with tempfile.TemporaryDirectory() as folder:
        found = call(
            write_pictures,
            [str(file.absolute()) for file in files],
            side,
            channels,
            inverted,
            folder=Path(folder),
            limits=Limits.of(total),
            source=str(files[0]),
        )
        with reading("What the process that read the pictures says", "their pixels"):
            pixels = np.load(Path(folder) / _PIXELS, allow_pickle=False)
            refused = {int(place): str(reason) for place, reason in found}
        places = [place for place in range(len(files)) if place not in refused]
        if pixels.dtype != np.uint8 or pixels.shape != (len(places), side, side, channels):
            raise DataError(
                f"The process that read the pictures left {pixels.dtype} of shape {pixels.shape}, "
                f"where {len(places)} pictures were expected. Try again."
            )
    return Read(pixels, places, refused)


def write_pictures(
    files: Sequence[str], side: int, channels: Literal[1, 3], inverted: bool
) -> list[tuple[int, str]]:
    """Write the pixels of picture files to the working folder: the call in the child process.

    Returns:
        Place and reason of each file that is no picture.
    """
    pixels: list[Any] = []
    refused: list[tuple[int, str]] = []
    for place, name in enumerate(files):
        try:
            with reading(name, "a file"):
                content = _content(Path(name))
            pixels.append(decode(content, name, side=side, channels=channels, invert=inverted))
        except DataError as error:
            refused.append((place, str(error)))
    empty = np.zeros((0, side, side, channels), np.uint8)
    np.save(_PIXELS, np.stack(pixels) if pixels else empty)
    return refused


def _content(path: Path) -> bytes:
    """Bytes of a plain file: opening a pipe or a device might never end."""
    if not path.is_file():
        raise DataError(f"{path} is no file: give picture files.")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} has more than {LARGEST} bytes: give a smaller picture.")
    return path.read_bytes()
