"""`cifar100.zip` of R2-D2 and learn2learn: `cifar100/data/CLASS/*.png` and lists of classes."""

from __future__ import annotations

import re
from collections import defaultdict

from metalearn.data.published import SPLIT_NAMES, SPLITS, Published
from metalearn.data.source import Source, image_part, record_images
from metalearn.data.untrusted.archives import Tree
from metalearn.errors import DataError

_IMAGE = re.compile(r"(?:.*/)?data/([^/]+)/[^/]+\.png")
_LIST = re.compile(r"(?:.*/)?splits/bertinetto/(train|val|test)\.txt")


def read_cifar100_images(tree: Tree, published: Published, side: int) -> Source | None:
    """Images by class name; the split is the published one of the data set asked for.

    Raises:
        DataError: the lists in the archive are not those of CIFAR-FS, or a file is damaged.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for name in tree.sizes:
        match = _IMAGE.fullmatch(name)
        if match:
            files[match[1]].append(name)
        listed = _LIST.fullmatch(name)
        if listed and published.name == "cifar-fs" and published.names:
            content = bytes(tree.read(name)).decode("utf-8", "replace").split()
            if set(content) != set(published.names[SPLIT_NAMES[listed[1]]]):
                raise DataError(
                    f"{tree.name}/{name} lists other classes than CIFAR-FS has in this split: get "
                    "the official archive."
                )
    if not files:
        return None
    unknown = sorted(name for name in files if published.split_of(name) is None)
    if unknown:
        raise DataError(f"{tree.name} has folders that are no class of CIFAR-100: {unknown[:5]}.")
    splits = {
        split: tuple(
            image_part(tree, name, files[name], published, side=side, invert=False)
            for name in (published.names or {})[split]
            if name in files
        )
        for split in SPLITS
    }
    used = [name for names in files.values() for name in names]
    return Source("CIFAR-100 images by class", splits, record_images(tree, used))
