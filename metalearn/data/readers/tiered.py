"""tieredImageNet as MetaOptNet's npz (BGR) or few-shot-ssl-public's pickled PNG streams.

Both name their labels `{split}_labels.pkl`, with other keys: the keys decide, not the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Integer, UInt8

from metalearn.data.published import Published, Split
from metalearn.data.readers.checks import fields, require_images, require_labels, text
from metalearn.data.source import Part, Source, labelled, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.images import decode
from metalearn.data.untrusted.npz import read_npz
from metalearn.data.untrusted.pickles import unpickle
from metalearn.errors import DataError

_NAMES: Final[dict[Split, str]] = {"train": "train", "validation": "val", "test": "test"}


def _named(split: str, kind: str) -> tuple[str, str]:
    """File names of few-shot-ssl-public, and of learn2learn's record."""
    return f"{split}_{kind}", f"tiered-imagenet-{split}_{kind}"


def _labels(tree: Tree, name: str, count: int) -> tuple[Integer[np.ndarray, " n"], dict[int, str]]:
    label = f"{tree.name}/{name}"
    content = fields(unpickle(tree.open(name), label), label)
    key = "label_specific" if "label_specific" in content else "labels"
    labels = require_labels(content.get(key), label, count)
    words = content.get("label_specific_str")
    if not isinstance(words, list):
        return labels, {}
    found = np.unique(labels)
    # One name a class, or one an image.
    if len(words) == count and count != len(found):
        return labels, {int(v): text(words[int(i)]) for v, i in zip(*_first(labels), strict=True)}
    named = {int(v): text(words[int(v)]) for v in found if 0 <= v < len(words)}
    return labels, named if len(set(named.values())) == len(found) else {}


def _first(labels: Integer[np.ndarray, " n"]) -> Any:
    return np.unique(labels, return_index=True)


def _streams(
    images: Sequence[Any], labels: Integer[np.ndarray, " n"], names: dict[int, str], label: str
) -> tuple[Part, ...]:
    def content(row: int) -> bytes:
        stream = images[row]
        if isinstance(stream, np.ndarray) and stream.dtype == np.uint8:
            return stream.tobytes()
        raise DataError(f"{label} has an image {row} that is no PNG stream in a uint8 array.")

    def part(value: int) -> Part:
        rows = np.flatnonzero(labels == value)

        def load() -> UInt8[np.ndarray, "n height width 3"]:
            return np.stack(
                [decode(content(r), f"{label}[{r}]", side=84, channels=3) for r in rows.tolist()]
            )

        return Part(names.get(value, f"label {value}"), len(rows), load)

    return tuple(part(value) for value in np.unique(labels).tolist())


def read_tiered(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by label, RGB.

    Raises:
        DataError: labels are missing, or a file is damaged, unsafe or another file.
    """
    splits: dict[Split, tuple[Part, ...]] = {}
    files = []
    notes: set[str] = set()
    for split, name in _NAMES.items():
        arrays = tree.find(f"{name}_images.npz")
        found = arrays or tree.find(*_named(name, "images_png.pkl"))
        if found is None:
            continue
        named = tree.find(*_named(name, "labels.pkl"))
        if named is None:
            raise DataError(f"{tree.name} holds {found} without {name}_labels.pkl: add it.")
        files += [found, named]
        label = f"{tree.name}/{found}"
        if arrays is not None:
            content = fields(read_npz(tree.open(found), label), label, "images")
            images = require_images(content["images"], label, published.side)
            labels, names = _labels(tree, named, len(images))
            splits[split] = labelled(images[..., ::-1], labels, names, file=label)
            notes.add("BGR in the source, RGB here")
            continue
        streams = unpickle(tree.open(found), label)
        if not isinstance(streams, list):
            raise DataError(f"{label} holds {type(streams).__name__}, where a list belongs.")
        labels, names = _labels(tree, named, len(streams))
        splits[split] = _streams(streams, labels, names, label)
    if not files:
        return None
    return Source("tieredImageNet arrays", splits, record(tree, *files), files, tuple(notes))
