"""The facts of each data set: classes and images of each split, files it comes in, downloads."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, get_args

from metalearn.config.choices import DatasetName as DatasetName
from metalearn.config.choices import Split as Split
from metalearn.errors import DataError

SPLITS: Final[tuple[Split, ...]] = get_args(Split)

# What files call the splits.
SPLIT_NAMES: Final[dict[str, Split]] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

# MD5 sums that publishers give: a source that has one is the official file.
OFFICIAL: Final = {
    "68d2efa1b9178cc56df9314c21c6e718": "Omniglot images_background.zip",
    "6b91aef0f799c5bb55b94e3f2daec811": "Omniglot images_evaluation.zip",
    "eb9058c3a382ffc7106e4002c42a8d85": "cifar-100-python.tar.gz",
    "16019d7e3df5f24257cddd939b257f8d": "cifar-100-python/train",
    "f0ef6b0ae62326f3e7ffdfab6717acfc": "cifar-100-python/test",
    "7973b15100ade9c7d40fb424638fde48": "cifar-100-python/meta",
    "b38f1eb4251fb9459ecc8e7febf9b2eb": "mini-imagenet.tar.gz",
    "e07e811b9f29362d159a9edd0d838c62": "tiered-imagenet.tar",
}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file to download.

    Attributes:
        name: name of the file.
        checksum: algorithm, colon and digest, as the publisher gives it.
        urls: places to get the file from, tried in turn.
    """

    name: str
    checksum: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A data set as published.

    Attributes:
        name: name of the data set.
        side: pixels, height and width.
        channels: 1 for ink on paper, 3 for colour.
        forms: the files that the data set comes in, for messages.
        remotes: files that can be downloaded.
        by_hand: files to get by hand, where nobody publishes a checksum and a plain address.
        lists: name of the file with the classes of each split.
        classes: number of classes of each split; None where every data set has its own.
        per_class: images of each class; None where it varies.
        totals: images of each split, where the classes vary in size.
        names: the classes of each split, where they have names.
    """

    name: DatasetName
    side: int
    channels: Literal[1, 3] = 3
    forms: str
    remotes: tuple[Remote, ...] = ()
    by_hand: str = ""
    lists: str | None = None
    classes: dict[Split, int] | None = None
    per_class: int | None = None
    totals: dict[Split, int] | None = None
    names: dict[Split, tuple[str, ...]] | None = None

    def split_of(self, name: str) -> Split | None:
        """The split a class is in, None for a class of no split."""
        for split, names in (self.names or {}).items():
            if name in names:
                return split
        return None


_OMNIGLOT: Final = (
    "https://github.com/brendenlake/omniglot/raw/master/python",
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python",
    "https://cdn.jsdelivr.net/gh/brendenlake/omniglot@master/python",
)
_CIFAR: Final = (
    Remote(
        "cifar-100-python.tar.gz",
        "md5:eb9058c3a382ffc7106e4002c42a8d85",
        (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "https://cave.cs.toronto.edu/kriz/cifar-100-python.tar.gz",
            "https://huggingface.co/datasets/nakroy/cifar100-python/resolve/main/cifar-100-python.tar.gz",
            "https://huggingface.co/datasets/cnak47/cv-datasets/resolve/main/cifar-100-python.tar.gz",
        ),
    ),
)
_CIFAR_FORMS: Final = "cifar-100-python.tar.gz or its folder, cifar100.zip"
_FOLDERS: Final = "torchmeta's data.hdf5, or folders {train,val,test}/CLASS"
_LISTED: Final = "images with {train,val,test}.csv or .json"

_FACTS: Final = (
    Published(
        name="omniglot",
        side=28,
        channels=1,
        forms=(
            "images_background.zip and images_evaluation.zip, the folders in them, or torchmeta's "
            "data.hdf5"
        ),
        remotes=tuple(
            Remote(f"{half}.zip", checksum, tuple(f"{place}/{half}.zip" for place in _OMNIGLOT))
            for half, checksum in (
                ("images_background", "md5:68d2efa1b9178cc56df9314c21c6e718"),
                ("images_evaluation", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
            )
        ),
        lists="omniglot_vinyals",
        per_class=20,
    ),
    Published(
        name="cifar-fs",
        side=32,
        forms=f"{_CIFAR_FORMS}, CIFAR_FS_{{train,val,test}}.pickle, {_FOLDERS}",
        remotes=_CIFAR,
        lists="cifar_fs",
        per_class=600,
    ),
    Published(
        name="fc100",
        side=32,
        forms=(
            f"{_CIFAR_FORMS}, FC100_{{train,val,test}}.pickle, few-shot-{{train,val,test}}.npz, "
            f"{_FOLDERS}"
        ),
        remotes=_CIFAR,
        lists="fc100",
        per_class=600,
    ),
    Published(
        name="miniimagenet",
        side=84,
        forms=(
            "mini-imagenet-cache-{train,val,test}.pkl, miniImageNet_category_split_*.pickle, "
            "few-shot-{train,val,test}.npz, torchmeta's {train,val,test}_data.hdf5, "
            f"{_LISTED}, or folders {{train,val,test}}/WNID"
        ),
        by_hand=(
            "mini-imagenet-cache-{train,validation,test}.pkl from "
            "https://zenodo.org/records/7978538"
        ),
        lists="miniimagenet",
        per_class=600,
    ),
    Published(
        name="tieredimagenet",
        side=84,
        forms=(
            "{train,val,test}_images.npz or _images_png.pkl, each with _labels.pkl, "
            f"{_LISTED}, or folders {{train,val,test}}/WNID"
        ),
        by_hand=(
            "tiered-imagenet-{train,val,test}_images_png.pkl and _labels.pkl from "
            "https://zenodo.org/records/7978538"
        ),
        lists="tieredimagenet",
        totals={"train": 448695, "validation": 124261, "test": 206209},
    ),
    Published(
        name="folders",
        side=84,
        forms=(
            "pictures in folders {train,val,test}/CLASS, in folders CLASS (with --split), or named "
            "by a list ({train,val,test}, labels or metadata with the ending csv, json or jsonl), "
            "or in Parquet files"
        ),
        by_hand="your own pictures in folders, one for each class",
    ),
)


def _load(name: str) -> Any:
    path = resources.files("metalearn.data").joinpath("splits", f"{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def fine_names() -> tuple[str, ...]:
    """CIFAR-100's class names, in the order of the official labels."""
    return tuple(_load("cifar100_classes")["fine_label_names"])


@cache
def superclasses() -> dict[str, str]:
    """CIFAR-100's superclass of each class."""
    found = _load("cifar100_classes")["superclasses"]
    return {fine: coarse for coarse, names in found.items() for fine in names}


@cache
def published(name: DatasetName) -> Published:
    """Published facts of a data set.

    Raises:
        DataError: there is no such data set.
    """
    facts = next((facts for facts in _FACTS if facts.name == name), None)
    if facts is None:
        raise DataError(f"{name!r} is no data set: it is one of {', '.join(get_args(DatasetName))}")
    if facts.lists is None:
        return facts
    lists = _load(facts.lists)
    names = {SPLIT_NAMES[key]: tuple(lists[key]) for key in ("train", "val", "test")}
    classes = {split: len(classes) for split, classes in names.items()}
    return replace(facts, names=names, classes=classes)
