"""The one form data sets are kept in: memory-mapped arrays and a manifest that vouches for them.

A folder with `manifest.json` and for each split `SPLIT.images.npy`, uint8 of shape (classes, most,
channels, height, width), and `SPLIT.counts.npy`, int64: how many of its `most` images each class
has. What follows them is 0 and, where the file system can, takes no space.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from metalearn.data.pool import Pool, Split
from metalearn.data.published import SPLITS
from metalearn.data.source import Part
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.images import resize
from metalearn.errors import DataError
from metalearn.files import write_json

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """One split, on disk.

    Attributes:
        split: which.
        images: of each class; mapped, and copied on write unless they are more than memory holds.
        counts: how many images each class has; the rest of its images is padding.
        names: one for each class.
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
        manifest: what is in it and where it came from.
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
                and images.shape[:2] == (len(counts), max(counts))
                and min(counts) > 0
            )
            names = tuple(str(name) for name in entry["names"])
        if not fits or len(names) != len(counts):
            raise DataError(f"{self.path} has arrays that its manifest does not describe.")
        return Stored(split, images, counts, names)

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


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
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
        DataError: it isn't one, or a file is missing or was changed.
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


def _write_split(
    folder: Path, split: Split, parts: Sequence[Part], side: int, channels: int
) -> None:
    counts = np.array([part.count for part in parts], np.int64)
    np.save(folder / f"{split}.counts.npy", counts)
    images = np.lib.format.open_memmap(
        folder / f"{split}.images.npy",
        mode="w+",
        dtype=np.uint8,
        shape=(len(parts), int(counts.max()), channels, side, side),
    )
    for row, part in zip(images, parts, strict=True):
        found = part.load()
        if found.shape[0] != part.count or found.shape[3] != channels:
            raise DataError(f"class {part.name} came as {found.shape}: the source is damaged.")
        if found.shape[1:3] != (side, side):
            found = np.stack([resize(image, side) for image in found])
        row[: part.count] = found.transpose(0, 3, 1, 2)
    images.flush()


def write_store(
    path: Path,
    splits: Mapping[Split, Sequence[Part]],
    *,
    side: int,
    channels: int,
    about: Mapping[str, Any],
) -> Store:
    """Write a data set so that its folder is either whole or absent.

    Args:
        path: the folder to make; it must not exist, or be empty.
        splits: classes of each split; empty ones are left out.
        side: height and width of the images.
        channels: of the images.
        about: what else the manifest should say.

    Raises:
        DataError: the folder is there already or can't be written, or a class can't be read.
    """
    kept = {split: splits[split] for split in SPLITS if splits.get(split)}
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} is there already: give a new folder, or remove it.")
    needed = sum(p.count for parts in kept.values() for p in parts) * side * side * channels
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise DataError(f"{path.parent} has {free} bytes free and {needed} are needed.")
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        for split, parts in kept.items():
            _write_split(temporary, split, parts, side, channels)
        files = {}
        for name in _files(kept):
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
            size = (temporary / name).stat().st_size
            files[name] = {"bytes": size, "sha256": _digest(temporary / name)}
        manifest = {
            "format": FORMAT,
            **about,
            "images": {"side": side, "channels": channels, "order": "NCHW", "dtype": "uint8"},
            "splits": {
                split: {
                    "classes": len(parts),
                    "images": sum(part.count for part in parts),
                    "names": [part.name for part in parts],
                    "counts": [part.count for part in parts],
                }
                for split, parts in kept.items()
            },
            "files": files,
        }
        write_json(temporary / MANIFEST, manifest)
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except (OSError, UnicodeError) as error:  # a class may have a name that is no text
        raise DataError(f"{path} can't be written ({error}): give another folder.") from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
    return Store(path, manifest)
