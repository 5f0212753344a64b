"""Omniglot: the official archives, or the folders in them."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from metalearn.data.published import SPLITS, Published
from metalearn.data.source import Remark, Source, image_part, record_images
from metalearn.data.untrusted.archives import Tree, open_tree
from metalearn.errors import DataError

HALVES: Final = ("images_background", "images_evaluation")
_FILE: Final = re.compile(
    r"(?:.*/)?images_(?:background|evaluation)/([^/]+/character\d\d)/\d{4}_\d\d\.png"
)


def read_omniglot(tree: Tree, published: Published, side: int) -> Source | None:
    """Drawings by ALPHABET/character, ink light; None when the tree holds none.

    The published split cuts across the two archives, so both are wanted: in one folder, zipped or
    extracted.

    Raises:
        DataError: an archive is damaged or unsafe, or holds something else.
    """
    trees, zips = [tree], []
    for half in HALVES:
        extracted = any(f"{half}/" in name for name in tree.sizes)
        found = None if tree.archive or extracted else tree.find(f"{half}.zip")
        if found is not None:
            zips.append(found)
            trees.append(open_tree(tree.path / found))
    files: dict[str, dict[str, tuple[Tree, str]]] = defaultdict(dict)
    used: dict[int, list[str]] = defaultdict(list)
    for number, each in enumerate(trees):
        for name in each.sizes:
            match = _FILE.fullmatch(name)
            if match:
                base = name.rpartition("/")[2]
                if base in files[match[1]]:
                    raise DataError(
                        f"{each.name}/{name} is there twice: give a folder with one copy of the "
                        "archives, zipped or extracted."
                    )
                files[match[1]][base] = (each, name)
                used[number].append(name)
    if not files:
        return None
    remarks: dict[str, Remark] = {}
    splits = {}
    for split in SPLITS:
        parts = []
        for character in (published.names or {})[split]:
            drawings = sorted(files.pop(character, {}).items())
            if drawings:
                holder = drawings[0][1][0]
                names = [name for _, (_, name) in drawings]
                parts.append(
                    image_part(
                        holder,
                        character,
                        names,
                        published,
                        side=side,
                        invert=True,
                        remarks=remarks,
                    )
                )
        splits[split] = tuple(parts)
    if files:
        raise DataError(
            f"{tree.name} holds {len(files)} characters that are not in Omniglot, such as "
            f"{next(iter(files))!r}: give the official archives."
        )
    rows = [row for number, names in used.items() for row in record_images(trees[number], names)]
    return Source(
        "omniglot archives or folders",
        splits,
        tuple(rows),
        {*used[0], *zips},
        ("ink is 255, paper 0",),
        remarks=remarks,
    )
