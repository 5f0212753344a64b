"""Findings of a reader: the images of each class of each split, not yet read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BufferedIOBase
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from metalearn.data.published import Published, Split
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.images import decode
from metalearn.errors import DataError

Images = UInt8[np.ndarray, "n height width channels"]


@dataclass(frozen=True, slots=True)
class Part:
    """Images of one class.

    Attributes:
        name: name of the class.
        count: number of images.
        load: reads them.
        files: their files, where each image has one.
    """

    name: str
    count: int
    load: Callable[[], Images]
    files: tuple[str, ...] = ()

    def label(self, row: int) -> str:
        """Name of an image in messages: its file, or its class and place."""
        return self.files[row] if self.files else f"{self.name}[{row}]"


@dataclass(frozen=True, slots=True)
class Remark:
    """Remark for the user on one file of a source.

    Attributes:
        file: its path, or that of a folder or link.
        used: true if its picture is in the data set.
        what: text of the remark, such as why it is not used.
    """

    file: str
    used: bool
    what: str


@dataclass(frozen=True, slots=True)
class Source:
    """Everything one source holds of a data set.

    Attributes:
        layout: the form it was found in.
        splits: the classes of each split.
        files: files that were read: name, bytes and, for single files, checksums.
        used: the files of the tree that it is made of.
        notes: further notes for a user of the result.
        unsplit: classes that the source puts in no split.
        elsewhere: why a picture that is not among `used` is not.
        remarks: by file, also on files that are not used. Loading images adds to them.
    """

    layout: str
    splits: dict[Split, tuple[Part, ...]]
    files: tuple[dict[str, Any], ...]
    used: Collection[str]
    notes: tuple[str, ...] = ()
    unsplit: tuple[Part, ...] = ()
    elsewhere: str = "no part of the form that was read"
    remarks: dict[str, Remark] = field(default_factory=dict)


def _row(name: str, file: BufferedIOBase) -> dict[str, Any]:
    """Name, size, MD5 (which publishers give) and SHA-256 of a file."""
    size, md5, sha256 = 0, hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with reading(name, "a file"), file:
        while block := file.read(2**20):
            size += len(block)
            md5.update(block)
            sha256.update(block)
    return {"name": name, "bytes": size, "md5": md5.hexdigest(), "sha256": sha256.hexdigest()}


def record(tree: Tree, *names: str) -> tuple[dict[str, Any], ...]:
    """Name, size and checksums of files, for the manifest.

    Args:
        tree: folder or archive that holds them; an archive is recorded as the one file it is.
        names: the files.

    Raises:
        DataError: a file can't be read.
    """
    if tree.archive:
        with reading(str(tree.path), "an archive"):
            return (_row(tree.name, tree.path.open("rb")),)
    return tuple(_row(name, tree.open(name)) for name in names)


def record_images(tree: Tree, names: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Record the number and sizes of image files read from a folder, or an archive's checksums.

    Raises:
        DataError: the archive can't be read.
    """
    if tree.archive:
        return record(tree)
    size = sum(tree.sizes[name] for name in names)
    return ({"name": tree.name, "files": len(names), "bytes": size},)


def image_part(
    tree: Tree,
    name: str,
    files: Sequence[str],
    published: Published,
    *,
    side: int,
    invert: bool = False,
    remarks: dict[str, Remark],
) -> Part:
    """A class of image files.

    Args:
        tree: folder or archive that holds them.
        name: name of the class.
        files: its images.
        published: says how many channels.
        side: pixels to resize them to.
        invert: True where ink is dark in the files.
        remarks: list to which loading adds what is not read of a file.
    """
    labels = tuple(f"{tree.name}/{file}" for file in files)

    def one(file: str, label: str) -> UInt8[np.ndarray, "height width channels"]:
        return decode(
            tree.read(file),
            label,
            side=side,
            channels=published.channels,
            invert=invert,
            tell=lambda what: remarks.update({file: Remark(label, True, what)}),
        )

    def load() -> Images:
        return np.stack([one(*pair) for pair in zip(files, labels, strict=True)])

    return Part(name, len(files), load, labels)


def labelled(
    images: UInt8[np.ndarray, "n height width channels"],
    labels: Integer[np.ndarray, " n"],
    names: dict[int, str] | None = None,
    *,
    file: str,
) -> tuple[Part, ...]:
    """The classes of labelled images, in the order of their labels, which need not be contiguous.

    Args:
        images: images of one split.
        labels: class of each image.
        names: names of the labels; `label N` where none is known.
        file: name of the file, for messages.

    Raises:
        DataError: two labels share a name.
    """
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    rows = np.split(order, starts[1:])
    found = [(names or {}).get(int(value), f"label {value}") for value in values]
    if len(set(found)) < len(found):
        raise DataError(f"{file} gives one name to several labels: get the file again.")
    return tuple(
        Part(name, len(chosen), partial(images.__getitem__, chosen))
        for name, chosen in zip(found, rows, strict=True)
    )
