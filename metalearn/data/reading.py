"""Work of the child process: find a data set in its sources and write its arrays."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from metalearn.data.complete import require_complete
from metalearn.data.copies import Copies, without_copies
from metalearn.data.leftovers import left_over, require_few
from metalearn.data.published import SPLITS, DatasetName, Published, Split, published
from metalearn.data.readers import READERS
from metalearn.data.source import Part, Remark, Source
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
    """Find a data set in a folder or archive; the images are not read yet.

    A folder that holds nothing of it but one archive stands for the archive.

    Args:
        path: path of the folder or archive.
        name: name of the data set.
        side: height and width for image files; by default as published.

    Raises:
        DataError: the path holds none of the data set, or is damaged or unsafe.
    """
    known = published(name)
    tree = open_tree(path)
    source = _read(tree, known, side or known.side)
    if source is not None:
        source.remarks.update(left_over(tree, source))
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
    files = tuple(part.label(row) for part in parts for row in range(part.count))

    def load() -> UInt8[np.ndarray, "n height width channels"]:
        return np.concatenate([part.load() for part in parts])

    return Part(parts[0].name, len(files), load, files)


def divide(
    parts: Sequence[Part], shares: Sequence[float], seed: int
) -> dict[Split, tuple[Part, ...]]:
    """Classes divided among the splits by chance: each class is in one split.

    A class's place in the order depends on its name and the seed alone, so that a class that is
    added leaves the others in theirs.

    Args:
        parts: the classes.
        shares: shares of the training, validation and test split.
        seed: decides which class goes where.

    Raises:
        DataError: there are too few classes to give each split one.
    """
    by_chance = sorted(
        parts,
        key=lambda part: hashlib.sha256(
            f"{seed} {part.name}".encode("utf-8", "surrogatepass")
        ).digest(),
    )
    ends = [round(len(parts) * sum(shares[: i + 1])) for i in range(len(shares))]
    divided = {
        split: tuple(sorted(by_chance[start:end], key=lambda part: part.name))
        for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False)
    }
    if not all(divided.values()):
        sizes = ", ".join(f"{len(found)} for {split}" for split, found in divided.items())
        raise DataError(
            f"the source has {len(parts)} class{'es' * (len(parts) != 1)}, of which --split gives "
            f"{sizes}: each needs one at least. Give other shares, or more classes."
        )
    return divided


def _by_name(parts: Iterable[Part]) -> tuple[Part, ...]:
    found: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        found[part.name].append(part)
    return tuple(_join(same) for same in found.values())


def join(
    sources: Sequence[Source], shares: Sequence[float] | None = None, seed: int = 0
) -> dict[Split, tuple[Part, ...]]:
    """The classes of several sources, those of one name joined.

    Args:
        sources: sources that were found.
        shares: shares of the classes for each split, whatever splits the sources have; without it
            those.
        seed: decides which class goes where, with shares.

    Raises:
        DataError: a class is in two splits, or in none.
    """
    if shares is not None:
        every = [p for source in sources for split in SPLITS for p in source.splits.get(split, ())]
        every += [part for source in sources for part in source.unsplit]
        return divide(_by_name(every), shares, seed)
    homeless = [part.name for source in sources for part in source.unsplit]
    if homeless:
        raise DataError(
            f"{len(homeless)} classes, such as {homeless[0]}, are in no split: divide them with "
            "--split 0.6 0.2 0.2 (shares of the classes to train, validate and test with), or put "
            "them into folders train, val and test."
        )
    splits: dict[Split, tuple[Part, ...]] = {}
    places: dict[str, Split] = {}
    for split in SPLITS:
        splits[split] = _by_name(p for source in sources for p in source.splits.get(split, ()))
        for part in splits[split]:
            name = part.name
            # A bare label means one thing in one split and another in the next.
            if not name.startswith("label ") and places.setdefault(name, split) != split:
                raise DataError(
                    f"class {name} is in the {places[name]} and the {split} split: episodes of one "
                    "would leak into the other. Leave the class in one split; or divide all "
                    "classes anew with --split 0.6 0.2 0.2; or, where labels were counted anew in "
                    f"each split, rename them, such as {split}-{name}."
                )
    return splits


def _write_split(
    folder: Path, split: Split, parts: Sequence[Part], side: int, channels: int, copies: Copies
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
        copies.look(split, part, row[: part.count])
    images.flush()


def write_arrays(
    folder: Path,
    splits: Mapping[Split, Sequence[Part]],
    copies: Copies,
    *,
    side: int,
    channels: int,
) -> dict[str, dict[str, Any]]:
    """Write the arrays of a data set.

    Args:
        folder: folder to write to.
        splits: classes of each split.
        copies: detector of copies, which looks at each picture.
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
        _write_split(folder, split, parts, side, channels, copies)
        for name in (f"{split}.images.npy", f"{split}.counts.npy"):
            files[name] = described(folder / name)
    return files


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rules of reading: what is accepted, and what is done with own pictures.

    Attributes:
        allow_partial: accept less than was published.
        shares: shares of the classes for each split; None for the sources' own splits.
        seed: decides which class goes where, with shares.
        drop_duplicates: keep the first of pictures that are twice in a class.
        allow_unused: largest share of own pictures that may be left out.
    """

    allow_partial: bool
    shares: Sequence[float] | None
    seed: int
    drop_duplicates: bool
    allow_unused: float


def read(
    name: DatasetName, paths: Sequence[str], folder: str, side: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Find a data set in its sources and write its arrays: the call in the child process.

    Args:
        name: name of the data set.
        paths: folders and archives that hold it.
        folder: folder for the arrays.
        side: height and width of the images.
        options: the fields of `Options`.

    Returns:
        What was read, the name and number of images of each class, `write_arrays`' files, and the
        remarks on single files.

    Raises:
        DataError: a source is damaged, unsafe or not the data set; all of it is not there; or a
            picture is there twice.
    """
    asked = Options(**options)
    known = published(name)
    sources = []
    for path in paths:
        note(path)
        sources.append(find_source(Path(path), name, side=side))
    splits = {
        split: parts for split, parts in join(sources, asked.shares, asked.seed).items() if parts
    }
    sizes = {split: [(p.name, p.count) for p in parts] for split, parts in splits.items()}
    require_complete(sizes, known, allow_partial=asked.allow_partial)
    if known.classes is None:
        left = [remark for source in sources for remark in source.remarks.values()]
        used = sum(count for parts in sizes.values() for _, count in parts)
        require_few(left, used, asked.allow_unused)
    if not splits:
        raise DataError(f"{paths[0]} holds no image of {known.name}.")
    dropped: list[Remark] = []
    if asked.drop_duplicates:
        splits = {s: tuple(without_copies(p, dropped) for p in ps) for s, ps in splits.items()}
    copies = Copies()
    files = write_arrays(Path(folder), splits, copies, side=side, channels=known.channels)
    twice = copies.judge(known)
    remarks = [remark for source in sources for remark in source.remarks.values()]
    return {
        "source": {
            "layouts": [source.layout for source in sources],
            "notes": [note for source in sources for note in source.notes],
            "files": [file for source in sources for file in source.files],
        },
        "sizes": {split: [(p.name, p.count) for p in parts] for split, parts in splits.items()},
        "files": files,
        "remarks": [asdict(remark) for remark in (*remarks, *dropped, *twice)],
    }
