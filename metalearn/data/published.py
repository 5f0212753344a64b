"""What the papers say each data set holds: classes of each split, images of each class."""

from __future__ import annotations

import json
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A data set as published.

    Attributes:
        name: of the data set.
        side: pixels, height and width.
        channels: 1 for ink on paper, 3 for colour.
        classes: how many of each split; None where every data set has its own.
        per_class: images of each class; None where it varies.
        totals: images of each split, where the classes vary in size.
        names: the classes of each split, where they have names.
    """

    name: DatasetName
    side: int
    channels: Literal[1, 3]
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


_FILES: Final[dict[DatasetName, str]] = {
    "omniglot": "omniglot_vinyals",
    "cifar-fs": "cifar_fs",
    "fc100": "fc100",
    "miniimagenet": "miniimagenet",
    "tieredimagenet": "tieredimagenet",
}
_SIDES: Final[dict[DatasetName, int]] = {"omniglot": 28, "cifar-fs": 32, "fc100": 32}
_TOTALS: Final[dict[Split, int]] = {"train": 448695, "validation": 124261, "test": 206209}


@cache
def published(name: DatasetName) -> Published:
    """What was published of a data set.

    Raises:
        DataError: there is no such data set.
    """
    if name not in get_args(DatasetName):
        raise DataError(f"{name!r} is no data set: it is one of {', '.join(get_args(DatasetName))}")
    if name == "folders":
        return Published(name=name, side=84, channels=3)
    lists = _load(_FILES[name])
    names = {SPLIT_NAMES[key]: tuple(lists[key]) for key in ("train", "val", "test")}
    omniglot, tiered = name == "omniglot", name == "tieredimagenet"
    return Published(
        name=name,
        side=_SIDES.get(name, 84),
        channels=1 if omniglot else 3,
        classes={split: len(classes) for split, classes in names.items()},
        per_class=20 if omniglot else None if tiered else 600,
        totals=_TOTALS if tiered else None,
        names=names,
    )
