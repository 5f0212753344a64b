"""CIFAR-100 as its authors give it: Python 2 pickles, in a folder or the official archive."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8

from metalearn.data.published import SPLITS, Published, fine_names
from metalearn.data.readers.checks import fields, require_labels, text
from metalearn.data.source import Part, Source, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.pickles import unpickle
from metalearn.errors import DataError

_FOLDER = "cifar-100-python"


def _find(tree: Tree, base: str) -> str | None:
    names = (base, f"{_FOLDER}/{base}")
    found = [name for name in tree.sizes if name in names or name.endswith(f"/{_FOLDER}/{base}")]
    return found[0] if found else None


def _batch(
    tree: Tree, name: str
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Integer[np.ndarray, " n"]]:
    label = f"{tree.name}/{name}"
    batch = fields(unpickle(tree.open(name), label), label, "data", "fine_labels")
    data = batch["data"]
    if not (
        isinstance(data, np.ndarray)
        and data.dtype == np.uint8
        and data.ndim == 2
        and data.shape[1] == 3072
    ):
        given = getattr(data, "shape", type(data).__name__)
        raise DataError(f"{label} holds {given} for its images, where uint8 (n, 3072) belongs.")
    labels = require_labels(batch["fine_labels"], label, len(data))
    if labels.size and not 0 <= labels.min() <= labels.max() < 100:
        raise DataError(f"{label} has labels outside 0 to 99: it is damaged. Get it again.")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def read_cifar100(tree: Tree, published: Published, side: int) -> Source | None:
    """Official train and test images together, as CIFAR-FS and FC100 join them.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """
    meta = _find(tree, "meta")
    files = [name for base in ("train", "test") if (name := _find(tree, base)) is not None]
    if meta is None or not files:
        return None
    label = f"{tree.name}/{meta}"
    names = fields(unpickle(tree.open(meta), label), label, "fine_label_names")["fine_label_names"]
    if not isinstance(names, list) or tuple(map(text, names)) != fine_names():
        raise DataError(f"{label} does not hold CIFAR-100's class names: get the official file.")
    batches = [_batch(tree, name) for name in files]
    splits = {}
    for split in SPLITS:
        parts = []
        for name in (published.names or {})[split]:
            number = fine_names().index(name)
            rows = [np.flatnonzero(labels == number) for _, labels in batches]

            def load(rows: list[Integer[np.ndarray, " n"]] = rows) -> UInt8[np.ndarray, "n h w c"]:
                chosen = zip(batches, rows, strict=True)
                return np.concatenate([data[found] for (data, _), found in chosen])

            count = sum(map(len, rows))
            if count:
                parts.append(Part(name, count, load))
        splits[split] = tuple(parts)
    used = (*files, meta)
    return Source("official CIFAR-100 pickles", splits, record(tree, *used), used)
