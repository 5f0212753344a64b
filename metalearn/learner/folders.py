"""Pictures in folders: labelled ones by class, and those to be classified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from metalearn.data.picture_files import read_pictures
from metalearn.errors import DataError
from metalearn.runs.card import PictureFormat


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """Pictures that were read, as a person sees them, and files that were not.

    Attributes:
        files: file of each picture.
        pixels: the pictures, of the size and channels of training.
        left_out: files that are no pictures, with their reasons.
    """

    files: list[Path]
    pixels: UInt8[np.ndarray, "n side side C"]
    left_out: list[tuple[Path, str]]


def read_folder(files: Sequence[Path], picture: PictureFormat) -> Folder:
    """Read pictures in the child process for strangers' files.

    Raises:
        DataError: reading crashed, or took more than it may.
    """
    found = read_pictures(files, side=picture.side, channels=picture.channels, inverted=False)
    left = [(files[place], reason) for place, reason in found.refused.items()]
    return Folder([files[place] for place in found.places], found.pixels, left)


def support_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files in one folder for each class, and files beside those folders; no hidden ones.

    Raises:
        DataError: there are not two folders with files, one is empty, or all hold folders alone.
    """
    found = pictures_in(folder)
    files = [file for file in found if file.parent != folder]
    classes = {class_of(file, folder) for file in files}
    if len(classes) < 2:
        found_in = f"one folder, {classes.pop()}," if classes else "no folder"
        raise DataError(
            f"{folder} has files in {found_in} of a class: give a folder with one folder for each "
            "class, two or more, that hold its labelled pictures."
        )
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    if empty := sorted(path.name for path in inside if path.name not in classes):
        raise DataError(
            f"{folder / empty[0]} holds no file: give labelled pictures of each class, or remove "
            f"the folders of classes without any ({len(empty)} here)."
        )
    if all(len(file.relative_to(folder).parts) > 2 for file in files):
        raise DataError(
            f"{folder} holds folders of folders, the first picture being {files[0]}: give the "
            "folder whose own folders are the classes."
        )
    return files, [file for file in found if file.parent == folder]


def labels_of(support: Folder, folder: Path) -> list[str]:
    """The class of each picture that was read.

    Raises:
        DataError: no file of a class is a picture, or a picture is in two classes; with the file.
    """
    labels = [class_of(file, folder) for file in support.files]
    for file, why in support.left_out:
        if (name := class_of(file, folder)) not in labels:
            raise DataError(f"no file of the class {name} is a picture; the first: {why}")
    seen: dict[bytes, int] = {}
    for at, pixels in enumerate(support.pixels):
        first = seen.setdefault(pixels.tobytes(), at)
        if labels[first] != labels[at]:
            raise DataError(
                f"{support.files[first]} and {support.files[at]} are the same picture under two "
                "labels: remove the wrong one."
            )
    return labels


def class_of(file: Path, folder: Path) -> str:
    """Name of the class: the first folder on the way to the file."""
    return file.relative_to(folder).parts[0]


def pictures_in(path: Path) -> list[Path]:
    """The file, or the files in a folder and in folders in it, by name; hidden ones passed over.

    Raises:
        DataError: there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"{path} is not there: give a picture or a folder of pictures.")
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    if not found:
        raise DataError(f"{path} holds no file: give a picture or a folder of pictures.")
    return found
