"""The one form data sets are kept in: memory-mapped arrays and a manifest that vouches for them.

A folder with `manifest.json` and for each split `SPLIT.images.npy`, uint8 of shape (classes, most,
channels, height, width), and `SPLIT.counts.npy`, int64: how many of its `most` images each class
has. What follows them is 0 and, where the file system can, takes no space. `remarks.csv`, of which
the manifest says nothing, is for people: what there is to know of single files of the source.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from metalearn.data.complete import Sizes
from metalearn.data.pool import Pool
from metalearn.data.published import SPLITS, Split
from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError
from metalearn.files import described, write_json

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
REMARKS: Final = "remarks.csv"


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One split, on disk.

    Attributes:
        split: which.
        images: images of each class; mapped, and copied on write unless they are more than memory
            holds.
        counts: number of images of each class; the rest of its images is padding.
        names: name of each class.
    """

    split: Split
    images: UInt8[np.ndarray, "classes most channels height width"]
    counts: Int64[np.ndarray, " classes"]
    names: tuple[str, ...]

    def pool(self) -> Pool:
        """The split as a `Pool`, without a copy: its images stay on disk until they are drawn."""
        counts = tuple(self.counts.tolist())
        uneven = min(counts) < self.images.shape[1]
        with warnings.catch_warnings():
            # nobody writes to a pool
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images = torch.from_numpy(self.images)
        return Pool(images, self.split, self.names, counts if uneven else None)


@dataclass(frozen=True, slots=True)
class Store:
    """A prepared data set.

    Attributes:
        path: its folder.
        manifest: contents and origin of the data set.
    """

    path: Path
    manifest: dict[str, Any]

    def split(self, split: Split) -> Stored:
        """One split, mapped.

        Raises:
            DataError: there is no such split, or its files are damaged.
        """
        entry = self.manifest["splits"].get(split)
        if entry is None:
            raise DataError(f"{self.path} has no {split} split: prepare it from a whole source.")
        with reading(str(self.path), "a prepared data set"):
            images = _mapped(self.path / f"{split}.images.npy")
            counts = np.load(self.path / f"{split}.counts.npy", allow_pickle=False)
            fits = (
                images.dtype == np.uint8
                and images.ndim == 5
                and counts.dtype == np.int64
                and counts.tolist() == entry["counts"]
                and images.shape == (len(counts), max(counts), *self._size())
                and min(counts) > 0
            )
            names = tuple(str(name) for name in entry["names"])
        if not fits or len(names) != len(counts):
            raise DataError(f"{self.path} has arrays that its manifest does not describe.")
        return Stored(split, images, counts, names)

    def _size(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        about = self.manifest["images"]
        return about["channels"], about["side"], about["side"]

    def verify(self) -> None:
        """Check every file against its SHA-256; opening checks the sizes only.

        Raises:
            DataError: a file was changed.
        """
        for name, entry in self.manifest["files"].items():
            if _digest(self.path / name) != entry["sha256"]:
                raise DataError(f"{self.path / name} was changed: prepare the data set again.")


def _mapped(path: Path) -> np.ndarray:
    try:
        images: np.ndarray = np.load(path, "c", allow_pickle=False)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        # What can be written to counts as memory that must be there; what can't does not.
        images = np.load(path, "r", allow_pickle=False)
    return images


def _digest(path: Path) -> object:
    try:
        return described(path)["sha256"]
    except OSError as error:
        raise DataError(f"{path} can't be read ({error}): prepare the data set again.") from error


def _files(splits: Mapping[Split, Any]) -> list[str]:
    return [f"{split}.{kind}.npy" for split in splits for kind in ("images", "counts")]


def open_store(path: Path, *, full: bool = False) -> Store:
    """Open a prepared data set.

    Args:
        path: its folder.
        full: check every file's SHA-256, not just its size.

    Raises:
        DataError: the folder is no store, or a file is missing or was changed.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise DataError(f"{path} has no {MANIFEST}: make it with `metalearn prepare`.")
    with reading(str(file), "a manifest"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        if version != FORMAT:
            raise DataError(f"{path} has format {version}, where {FORMAT} is read: prepare again.")
        whole = set(manifest["splits"]) <= set(SPLITS)
        whole &= set(manifest["files"]) == set(_files(manifest["splits"]))
        for name, entry in manifest["files"].items() if whole else ():
            size = (path / name).stat().st_size
            if size != entry["bytes"]:
                raise DataError(
                    f"{path / name} has {size} bytes where {entry['bytes']} were written: prepare "
                    "the data set again."
                )
    if not whole:
        raise DataError(f"{file} names other files than it should: prepare the data set again.")
    store = Store(path, manifest)
    if full:
        store.verify()
    return store


def described_arrays(sizes: Sizes, *, side: int, channels: int) -> dict[str, Any]:
    """Description of the arrays in a manifest: size of the images, classes of each split.

    Args:
        sizes: name and number of images of each class.
        side: height and width of the images.
        channels: channels of the images.
    """
    return {
        "images": {"side": side, "channels": channels, "order": "NCHW", "dtype": "uint8"},
        "splits": {
            split: {
                "classes": len(parts),
                "images": sum(count for _, count in parts),
                "names": [name for name, _ in parts],
                "counts": [count for _, count in parts],
            }
            for split, parts in sizes.items()
        },
    }


def keep(folder: Path, path: Path, manifest: Mapping[str, Any], *, remarks: str) -> Store:
    """Move written arrays to the place of a data set, which then is either whole or absent.

    Every file is measured and hashed here, whatever its writer says of it.

    Args:
        folder: holds the arrays of every split and nothing else, on the file system of `path`.
        path: folder to make; it must not exist, or be empty.
        manifest: contents of the manifest; `files` holds bytes and SHA-256 of each file.
        remarks: content of `remarks.csv`.

    Raises:
        DataError: files are not as the manifest says, or the folder can't be made.
    """
    require_absent(path)
    try:
        plain = sorted(e.name for e in os.scandir(folder) if e.is_file(follow_symlinks=False))
        expected = sorted(_files(manifest["splits"]))
        if plain != expected or len(os.listdir(folder)) != len(expected):
            raise DataError(f"{path} was to be made of {expected}, and {plain[:8]} were written.")
        for name in expected:
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
            if described(folder / name) != manifest["files"].get(name):
                raise DataError(f"{name} has another size or sum than was written: try again.")
        (folder / REMARKS).write_text(remarks, encoding="utf-8", errors="backslashreplace")
        write_json(folder / MANIFEST, {"format": FORMAT, **manifest})
        written = open_store(folder)
        for split in written.manifest["splits"]:
            written.split(split)
        folder.chmod(0o755)
        os.replace(folder, path)
    except (OSError, UnicodeError) as error:  # a class may have a name that is no text
        raise DataError(f"{path} can't be written ({error}): give another folder.") from error
    return Store(path, written.manifest)


def require_absent(path: Path) -> None:
    """Raise if there is something where a data set is to be made.

    Raises:
        DataError: there is.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} is there already: give a new folder (--root), or remove it.")
