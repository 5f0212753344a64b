"""miniImageNet as `mini-imagenet-cache-{train,val,test}.pkl` (few-shot-ssl-public, learn2learn)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Integer

from metalearn.data.pool import Split
from metalearn.data.published import Published
from metalearn.data.source import Part, Source, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.npz import fields, require_images, text
from metalearn.data.untrusted.unpickle import unpickle
from metalearn.errors import DataError

_STEM: Final = "mini-imagenet-cache"
_FILES: Final[dict[Split, tuple[str, ...]]] = {
    "train": (f"{_STEM}-train.pkl",),
    "validation": (f"{_STEM}-val.pkl", f"{_STEM}-validation.pkl"),
    "test": (f"{_STEM}-test.pkl",),
}


def _rows(value: Any, count: int, name: str) -> Integer[np.ndarray, " n"]:
    if isinstance(value, np.ndarray):
        rows = value
    elif isinstance(value, (list, tuple, range)) and len(value) <= count:
        plain = isinstance(value, range) or all(type(row) is int for row in value)
        rows = np.asarray(value, np.int64) if plain else np.empty(0)
    else:
        rows = np.empty(0)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise DataError(f"{name} has a class whose rows are no list of row numbers.")
    if rows.min() < 0 or rows.max() >= count:
        raise DataError(f"{name} has a class with rows outside its {count} images: get it again.")
    return rows.astype(np.int64)


def read_cache_pickles(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by class name.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """
    splits: dict[Split, tuple[Part, ...]] = {}
    files = []
    for split, bases in _FILES.items():
        found = tree.find(*bases)
        if found is None:
            continue
        files.append(found)
        label = f"{tree.name}/{found}"
        content = fields(unpickle(tree.read(found), label), label, "image_data", "class_dict")
        images = require_images(content["image_data"], label, published.side)
        classes = fields(content["class_dict"], label)
        with reading(label, "row numbers"):
            rows = {name: _rows(value, len(images), label) for name, value in classes.items()}
        taken = np.concatenate([*rows.values(), np.empty(0, np.int64)])
        if len(np.unique(taken)) < len(taken):
            raise DataError(f"{label} has an image in two classes, or twice in one: get it again.")
        splits[split] = tuple(
            Part(text(name), len(chosen), lambda i=images, c=chosen: i[c])  # type: ignore[misc]
            for name, chosen in sorted(rows.items())
        )
    if not files:
        return None
    return Source("mini-imagenet-cache pickles", splits, record(tree, *files))
