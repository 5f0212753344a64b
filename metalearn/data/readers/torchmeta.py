"""torchmeta's HDF5 files of Omniglot, CIFAR-FS, FC100 and miniImageNet.

Omniglot and CIFAR-100 are one `data.hdf5` each, miniImageNet is `{train,val,test}_data.hdf5`. The
lists of classes that lie beside them aren't needed: the split is the published one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import UInt8

from metalearn.data.published import Published, Split, superclasses
from metalearn.data.readers.omniglot import HALVES
from metalearn.data.source import Part, Source, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.hdf5 import read_hdf5
from metalearn.errors import DataError

_FILES: Final[dict[Split, str]] = {
    "train": "train_data.hdf5",
    "validation": "val_data.hdf5",
    "test": "test_data.hdf5",
}
_SIDE: Final = 105  # of a drawing, which is without a dimension of channels


def _places(published: Published, name: str) -> tuple[str, ...]:
    if published.name == "omniglot":
        return tuple(f"{half}/{name}" for half in HALVES)
    if published.name == "miniimagenet":
        return (f"datasets/{name}",)
    return (f"{superclasses()[name]}/{name}",)


def _part(name: str, images: UInt8[np.ndarray, "..."]) -> Part:
    return Part(name, len(images), lambda: images.reshape(*images.shape[:3], -1))


def read_torchmeta(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by class name; Omniglot's ink is light already. What isn't published is left out.

    Raises:
        DataError: h5py is not installed, or a file is damaged, unsafe or another file.
    """
    files: dict[str, list[Split]] = {}
    for split, base in _FILES.items():
        found = tree.find(base if published.name == "miniimagenet" else "data.hdf5")
        if found is not None:
            files.setdefault(found, []).append(split)
    drawings = published.channels == 1
    shape = (_SIDE, _SIDE) if drawings else (published.side, published.side, 3)
    splits: dict[Split, tuple[Part, ...]] = {}
    for file, held in files.items():
        label = f"{tree.name}/{file}"
        classes = {split: (published.names or {})[split] for split in held}
        places = {
            place: name
            for names in classes.values()
            for name in names
            for place in _places(published, name)
        }
        parts: dict[str, Part] = {}
        for place, images in read_hdf5(tree.open(file), label, places, shape).items():
            name = places[place]
            if name in parts:
                raise DataError(f"{label} has {name} in both halves: get it again.")
            parts[name] = _part(name, images)
        if not parts:
            raise DataError(
                f"{label} holds no class of {published.name} where torchmeta keeps it, such as "
                f"{next(iter(places))!r}: it is another file."
            )
        for split, names in classes.items():
            splits[split] = tuple(parts[name] for name in names if name in parts)
    if not files:
        return None
    notes = ("ink is 255, paper 0", "drawings are in the order of the HDF5 file")
    rows = record(tree, *files)
    return Source("torchmeta's HDF5", splits, rows, tuple(files), notes if drawings else ())
