"""One function for each form a data set comes in: the source it finds in a tree, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from metalearn.data.published import DatasetName, Published
from metalearn.data.readers.cifar100 import read_cifar100
from metalearn.data.readers.folders import (
    read_cifar100_images,
    read_classes,
    read_folders,
    read_tiny_imagenet,
)
from metalearn.data.readers.labelled import (
    read_cache_pickles,
    read_labelled_pickles,
    read_tadam,
)
from metalearn.data.readers.lists import read_lists
from metalearn.data.readers.omniglot import read_omniglot
from metalearn.data.readers.parquet import read_parquet
from metalearn.data.readers.tiered import read_tiered
from metalearn.data.readers.torchmeta import read_torchmeta
from metalearn.data.source import Source
from metalearn.data.untrusted.archives import Tree

Reader: TypeAlias = Callable[[Tree, Published, int], Source | None]

# In the order they are tried: the form nearest to the original first.
READERS: Final[dict[DatasetName, tuple[Reader, ...]]] = {
    "omniglot": (read_omniglot, read_torchmeta),
    "cifar-fs": (
        read_cifar100,
        read_cifar100_images,
        read_labelled_pickles,
        read_torchmeta,
        read_folders,
    ),
    "fc100": (
        read_cifar100,
        read_cifar100_images,
        read_labelled_pickles,
        read_tadam,
        read_torchmeta,
        read_folders,
    ),
    "miniimagenet": (
        read_cache_pickles,
        read_labelled_pickles,
        read_tadam,
        read_torchmeta,
        read_lists,
        read_tiny_imagenet,
        read_folders,
    ),
    "tieredimagenet": (read_tiered, read_lists, read_tiny_imagenet, read_folders),
    "folders": (read_lists, read_folders, read_classes, read_parquet),
}
