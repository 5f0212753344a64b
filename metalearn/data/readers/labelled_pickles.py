"""Pickles with `data` and `labels`: MetaOptNet's CIFAR-FS and FC100, Gidaris's miniImageNet."""

from __future__ import annotations

from typing import Final

from metalearn.data.pool import Split
from metalearn.data.published import DatasetName, Published
from metalearn.data.source import Part, Source, labelled, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.npz import fields, require_images, require_labels, text
from metalearn.data.untrusted.unpickle import unpickle
from metalearn.errors import DataError

_MINI: Final = "miniImageNet_category_split"
# train_phase_val and train_phase_test hold other images of the training classes: no split of ours.
_FILES: Final[dict[DatasetName, dict[Split, tuple[str, ...]]]] = {
    "cifar-fs": {
        "train": ("CIFAR_FS_train.pickle",),
        "validation": ("CIFAR_FS_val.pickle",),
        "test": ("CIFAR_FS_test.pickle",),
    },
    "fc100": {
        "train": ("FC100_train.pickle",),
        "validation": ("FC100_val.pickle",),
        "test": ("FC100_test.pickle",),
    },
    "miniimagenet": {
        "train": (f"{_MINI}_train_phase_train.pickle",),
        "validation": (f"{_MINI}_val.pickle",),
        "test": (f"{_MINI}_test.pickle",),
    },
}


def read_labelled_pickles(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by label; Gidaris's files also name the classes.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """
    splits: dict[Split, tuple[Part, ...]] = {}
    files = []
    for split, bases in _FILES.get(published.name, {}).items():
        found = tree.find(*bases)
        if found is None:
            continue
        files.append(found)
        label = f"{tree.name}/{found}"
        content = fields(unpickle(tree.read(found), label), label, "data", "labels")
        images = require_images(content["data"], label, published.side)
        labels = require_labels(content["labels"], label, len(images))
        names = content.get("label2catname", {})
        if not isinstance(names, dict) or not all(type(key) is int for key in names):
            raise DataError(f"{label} has a label2catname that is no dict from labels to names.")
        known = {key: text(value) for key, value in names.items()}
        splits[split] = labelled(images, labels, known, file=label)
    if not files:
        return None
    return Source("pickles of data and labels", splits, record(tree, *files))
