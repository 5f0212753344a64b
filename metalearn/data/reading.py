"""What the child process does: find a data set in its sources and write its arrays."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from metalearn.data.complete import require_complete
from metalearn.data.published import SPLITS, DatasetName, Published, Split, published
from metalearn.data.readers import READERS
from metalearn.data.source import Part, Source
from metalearn.data.untrusted.archives import Tree, open_tree
from metalearn.data.untrusted.damage import note
from metalearn.data.untrusted.images import resize
from metalearn.errors import DataError
from metalearn.files import described

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz")


def _read(tree: Tree, known: Published, side: int) -> Source | None:
    for reader in READERS[known.name]:
        source = reader(tree, known, side)
        if source is not None:
            return source
    return None


def find_source(path: Path, name: DatasetName, *, side: int | None = None) -> Source:
    """What a folder or archive holds of a data set; the images are not read yet.

    A folder that holds nothing of it but one archive stands for the archive.

    Args:
        path: path of the folder or archive.
        name: name of the data set.
        side: height and width for image files; by default as published.

    Raises:
        DataError: it holds none of the data set, or is damaged or unsafe.
    """
    known = published(name)
    tree = open_tree(path)
    source = _read(tree, known, side or known.side)
    if source is not None:
        return source
    archives = [] if tree.archive else [file for file in tree.sizes if file.endswith(ARCHIVES)]
    if len(archives) == 1:
        return find_source(path / archives[0], name, side=side)
    some = ", ".join(list(tree.sizes)[:5]) or "no file"
    raise DataError(
        f"{path} holds {some}, and nothing known of {name}: {known.forms} was expected."
        + (" Give the archive to read as --source." if archives else "")
    )


def _join(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]

    def load() -> UInt8[np.ndarray, "n height width channels"]:
        return np.concatenate([part.load() for part in parts])

    return Part(parts[0].name, sum(part.count for part in parts), load)


def join(sources: Sequence[Source]) -> dict[Split, tuple[Part, ...]]:
    """The classes of several sources, those of one name joined.

    Raises:
        DataError: a class is in two splits.
    """
    splits: dict[Split, tuple[Part, ...]] = {}
    places: dict[str, Split] = {}
    for split in SPLITS:
        found: dict[str, list[Part]] = defaultdict(list)
        for source in sources:
            for part in source.splits.get(split, ()):
                found[part.name].append(part)
        for name in found:
            # A bare label means one thing in one split and another in the next.
            if not name.startswith("label ") and places.setdefault(name, split) != split:
                raise DataError(
                    f"class {name} is in the {places[name]} and the {split} split: episodes of one "
                    "would leak into the other. Leave the class in one split; or, where labels "
                    f"were counted anew in each split, rename them, such as {split}-{name}."
                )
        splits[split] = tuple(_join(parts) for parts in found.values())
    return splits


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


def write_arrays(
    folder: Path, splits: Mapping[Split, Sequence[Part]], *, side: int, channels: int
) -> dict[str, dict[str, Any]]:
    """Write the arrays of a data set.

    Args:
        folder: where to write.
        splits: classes of each split.
        side: height and width of the images.
        channels: channels of the images.

    Returns:
        Bytes and SHA-256 of each file.

    Raises:
        DataError: a class can't be read, or the disk has too little space.
    """
    needed = sum(p.count for parts in splits.values() for p in parts) * side * side * channels
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(f"{folder} has {free} bytes free and {needed} are needed.")
    files = {}
    for split, parts in splits.items():
        _write_split(folder, split, parts, side, channels)
        for name in (f"{split}.images.npy", f"{split}.counts.npy"):
            files[name] = described(folder / name)
    return files


def read(
    name: DatasetName, paths: Sequence[str], folder: str, side: int, allow_partial: bool
) -> dict[str, Any]:
    """Find a data set in its sources and write its arrays: the call in the child process.

    Args:
        name: name of the data set.
        paths: folders and archives that hold it.
        folder: where to write the arrays.
        side: height and width of the images.
        allow_partial: accept less than was published.

    Returns:
        What was read, the name and number of images of each class, and `write_arrays`' files.

    Raises:
        DataError: a source is damaged, unsafe or not the data set, or all of it is not there.
    """
    known = published(name)
    sources = []
    for path in paths:
        note(path)
        sources.append(find_source(Path(path), name, side=side))
    splits = {split: parts for split, parts in join(sources).items() if parts}
    sizes = {split: [(p.name, p.count) for p in parts] for split, parts in splits.items()}
    require_complete(sizes, known, allow_partial=allow_partial)
    if not splits:
        raise DataError(f"{paths[0]} holds no image of {known.name}.")
    return {
        "source": {
            "layouts": [source.layout for source in sources],
            "notes": [note for source in sources for note in source.notes],
            "files": [file for source in sources for file in source.files],
        },
        "sizes": sizes,
        "files": write_arrays(Path(folder), splits, side=side, channels=known.channels),
    }
