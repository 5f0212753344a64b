"""Arrays of images with labels, one file a split: MetaOptNet's, Gidaris's, TADAM's, the cache's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Integer

from metalearn.data.published import SPLIT_NAMES, DatasetName, Published, Split
from metalearn.data.readers.checks import fields, require_images, require_labels, text
from metalearn.data.source import Part, Source, labelled, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.npz import read_npz
from metalearn.data.untrusted.pickles import unpickle
from metalearn.errors import DataError

_Bases: TypeAlias = Mapping[Split, tuple[str, ...]]


def _by_split(form: str) -> _Bases:
    return {SPLIT_NAMES[name]: (form.format(name),) for name in ("train", "val", "test")}


_MINI: Final = "miniImageNet_category_split"
# train_phase_val and train_phase_test hold other images of the training classes: no split of ours.
_PICKLES: Final[dict[DatasetName, _Bases]] = {
    "cifar-fs": _by_split("CIFAR_FS_{}.pickle"),
    "fc100": _by_split("FC100_{}.pickle"),
    "miniimagenet": {
        **_by_split(f"{_MINI}_{{}}.pickle"),
        "train": (f"{_MINI}_train_phase_train.pickle",),
    },
}
_TADAM: Final = _by_split("few-shot-{}.npz")
_STEM: Final = "mini-imagenet-cache"
_CACHE: Final[_Bases] = {
    **_by_split(f"{_STEM}-{{}}.pkl"),
    "validation": (f"{_STEM}-val.pkl", f"{_STEM}-validation.pkl"),  # learn2learn's
}


def _source(
    tree: Tree, layout: str, bases: _Bases, read: Callable[[str, str], tuple[Part, ...]]
) -> Source | None:
    """Read the file of each split by `read`, given its place and its name for messages."""
    found = {s: name for s, names in bases.items() if (name := tree.find(*names)) is not None}
    splits = {split: read(name, f"{tree.name}/{name}") for split, name in found.items()}
    used = tuple(found.values())
    return Source(layout, splits, record(tree, *used), used) if found else None


def read_labelled_pickles(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by label; Gidaris's files also name the classes.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """

    def read(name: str, label: str) -> tuple[Part, ...]:
        content = fields(unpickle(tree.open(name), label), label, "data", "labels")
        images = require_images(content["data"], label, published.side)
        labels = require_labels(content["labels"], label, len(images))
        names = content.get("label2catname", {})
        if not isinstance(names, dict) or not all(type(key) is int for key in names):
            raise DataError(f"{label} has a label2catname that is no dict from labels to names.")
        known = {key: text(value) for key, value in names.items()}
        return labelled(images, labels, known, file=label)

    bases = _PICKLES.get(published.name, {})
    return _source(tree, "pickles of data and labels", bases, read)


def read_tadam(tree: Tree, published: Published, side: int) -> Source | None:
    """TADAM's `few-shot-{train,val,test}.npz`: images by label, in files that name no class.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """

    def read(name: str, label: str) -> tuple[Part, ...]:
        content = fields(read_npz(tree.open(name), label), label, "features", "targets")
        images = require_images(content["features"], label, published.side)
        labels = require_labels(content["targets"], label, len(images))
        return labelled(images, labels, file=label)

    return _source(tree, "npz of features and targets", _TADAM, read)


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
    """`mini-imagenet-cache-{train,val,test}.pkl`: images, and row numbers by class name.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """

    def read(name: str, label: str) -> tuple[Part, ...]:
        content = fields(unpickle(tree.open(name), label), label, "image_data", "class_dict")
        images = require_images(content["image_data"], label, published.side)
        classes = fields(content["class_dict"], label)
        with reading(label, "row numbers"):
            rows = {name: _rows(value, len(images), label) for name, value in classes.items()}
        taken = np.concatenate([*rows.values(), np.empty(0, np.int64)])
        if len(np.unique(taken)) < len(taken):
            raise DataError(f"{label} has an image in two classes, or twice in one: get it again.")
        return tuple(
            Part(name, len(chosen), partial(images.__getitem__, chosen))
            for name, chosen in sorted(rows.items())
        )

    return _source(tree, "mini-imagenet-cache pickles", _CACHE, read)
