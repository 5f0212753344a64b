"""Parquet files of pictures with labels, as data sets on Hugging Face's hub lie in them."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

import numpy as np
from jaxtyping import UInt8

from metalearn.data.published import SPLIT_NAMES, SPLITS, Published, Split
from metalearn.data.source import Images, Part, Remark, Source, record
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.images import decode
from metalearn.data.untrusted.parquet import Table, read_table

# `train.parquet`, `train-00000-of-00004.parquet`, the same in folders; other names are of no split.
_NAME: Final = re.compile(r"(?:.*/)?([^/]+?)(?:-\d+-of-\d+(?:-[0-9a-f]+)?)?\.parquet")


def read_parquet(tree: Tree, published: Published, side: int) -> Source | None:
    """Files with a column of encoded pictures and one of labels, in a split by their names.

    Raises:
        DataError: a file is damaged, or has other columns.
    """
    names = [name for name in tree.sizes if _NAME.fullmatch(name)]
    if not names:
        return None
    remarks: dict[str, Remark] = {}
    splits: dict[Split | None, list[Part]] = defaultdict(list)
    for name in names:
        label = f"{tree.name}/{name}"
        table = read_table(tree.open(name), label)
        rows: dict[str, list[int]] = defaultdict(list)
        for row, called in enumerate(table.labels):
            rows[called].append(row)
        found = _NAME.fullmatch(name)
        split = SPLIT_NAMES.get(found[1].lower()) if found else None
        splits[split] += [
            _part(table, called, chosen, label, published, side=side, remarks=remarks)
            for called, chosen in sorted(rows.items())
        ]
    return Source(
        "parquet files",
        {split: tuple(splits.get(split, ())) for split in SPLITS},
        record(tree, *names),
        set(names),
        (),
        tuple(splits.get(None, ())),
        "beside parquet files, which are read",
        remarks,
    )


def _part(
    table: Table,
    name: str,
    rows: list[int],
    file: str,
    published: Published,
    *,
    side: int,
    remarks: dict[str, Remark],
) -> Part:
    """A class of one file; its pictures are decoded when they are asked for."""
    labels = tuple(f"{file}[{row}] {table.paths[row]}".rstrip() for row in rows)

    def one(row: int, label: str) -> UInt8[np.ndarray, "height width channels"]:
        with reading(label, "a picture in a Parquet file"):
            content = table.picture(row)
        return decode(
            content,
            label,
            side=side,
            channels=published.channels,
            tell=lambda what: remarks.update({label: Remark(label, True, what)}),
        )

    def load() -> Images:
        return np.stack([one(*pair) for pair in zip(rows, labels, strict=True)])

    return Part(name, len(rows), load, labels)
