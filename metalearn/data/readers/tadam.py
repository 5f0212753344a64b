"""TADAM's `few-shot-{train,val,test}.npz` of FC100 and miniImageNet."""

from __future__ import annotations

from metalearn.data.pool import Split
from metalearn.data.published import Published
from metalearn.data.source import Part, Source, labelled, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.npz import fields, read_npz, require_images, require_labels


def read_tadam(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by label; the files name no class.

    Raises:
        DataError: a file is damaged, unsafe or another file.
    """
    splits: dict[Split, tuple[Part, ...]] = {}
    files = []
    names: tuple[tuple[Split, str], ...] = (
        ("train", "train"),
        ("validation", "val"),
        ("test", "test"),
    )
    for split, name in names:
        found = tree.find(f"few-shot-{name}.npz")
        if found is None:
            continue
        files.append(found)
        label = f"{tree.name}/{found}"
        content = fields(read_npz(tree.read(found), label), label, "features", "targets")
        images = require_images(content["features"], label, published.side)
        labels = require_labels(content["targets"], label, len(images))
        splits[split] = labelled(images, labels, file=label)
    if not files:
        return None
    return Source("npz of features and targets", splits, record(tree, *files))
