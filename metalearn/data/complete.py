"""Comparison of what was found of a data set with what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from metalearn.data.published import SPLITS, Published, Split
from metalearn.errors import DataError

# Name and number of images of each class.
Sizes: TypeAlias = Mapping[Split, Sequence[tuple[str, int]]]


def compare(found: Sizes, known: Published) -> list[str]:
    """Differences between the data and what was published, one sentence each.

    Raises:
        DataError: there is more than was published, or something else.
    """
    lacking = []
    for split in SPLITS:
        parts = found.get(split, ())
        if not parts:
            lacking.append(f"the {split} split is missing")
            continue
        names = {name for name, _ in parts}
        strange = sorted(names - set((known.names or {}).get(split, names)))
        # Labels without names, and tieredImageNet's words, can't be compared.
        if any(known.split_of(name) for name in names) and strange:
            raise DataError(
                f"the {split} split has classes that {known.name} does not have there, such as "
                f"{strange[:3]}: give the data set itself."
            )
        counts = [count for _, count in parts]
        classes, images, most = len(parts), sum(counts), max(counts)
        wanted = (known.classes or {}).get(split, classes)
        total = (known.totals or {}).get(split, images)
        if classes > wanted or images > total or most > (known.per_class or most):
            raise DataError(
                f"the {split} split has {classes} classes and {images} images, up to {most} a "
                f"class, more than published ({wanted} classes, {known.per_class or total} images"
                f"{' a class' if known.per_class else ''}): give each source once."
            )
        if classes < wanted:
            lacking.append(f"{split} has {classes} of {wanted} classes")
        short = [count for count in counts if count < (known.per_class or 0)]
        if short:
            lacking.append(
                f"{len(short)} classes of {split} have fewer than {known.per_class} images "
                f"({min(short)} the least)"
            )
        if images < total:
            lacking.append(f"{split} has {images} of {total} images")
    return lacking


def require_complete(found: Sizes, known: Published, *, allow_partial: bool) -> list[str]:
    """Missing parts of a data set, where that is accepted.

    Raises:
        DataError: something is missing and not accepted; or there is more than was published.
    """
    lacking = compare(found, known)
    if lacking and not allow_partial and known.classes is not None:
        raise DataError(
            f"the source is not all of {known.name}: {'; '.join(lacking)}. Complete it, or accept "
            "it with --allow-partial (results are then not comparable with published ones)."
        )
    return lacking
