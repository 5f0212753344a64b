"""Leftovers: files of a source that are not in the data set made of it."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from metalearn.data.source import Remark, Source
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.images import ENDINGS, UNREAD, ending
from metalearn.errors import DataError

_KINDS: Final = 8  # of remarks that a message shows


def is_picture(name: str) -> bool:
    """True if a file is a picture by its name, of a format that is read or not."""
    return ending(name) in ENDINGS | UNREAD


def left_over(tree: Tree, source: Source) -> dict[str, Remark]:
    """The files and folders of a tree that a source is not made of, each with the reason."""
    found = {}
    for name in tree.sizes.keys() - set(source.used):
        if ending(name) in UNREAD:
            why = f"a picture of a format that is not read ({ending(name)})"
        else:
            why = source.elsewhere if is_picture(name) else "no picture"
        found[name] = why
    found |= tree.skipped
    return {name: Remark(f"{tree.name}/{name}", False, found[name]) for name in sorted(found)}


def require_few(remarks: Sequence[Remark], used: int, share: float) -> None:
    """Raise if too many pictures are left out.

    Args:
        remarks: remarks on single files.
        used: number of pictures that are used.
        share: largest share of all pictures that may be left out.

    Raises:
        DataError: more are.
    """
    lost = [remark for remark in remarks if not remark.used and is_picture(remark.file)]
    if len(lost) > share * (used + len(lost)):
        raise DataError(
            f"{len(lost)} of {used + len(lost)} pictures would be left out, more than "
            f"{100 * share:g} %: {summary(lost)}. Remove or move them, or accept it with "
            "--allow-unused."
        )


def summary(remarks: Sequence[Remark]) -> str:
    """The first file of each kind of remark, and how many others there are; of the first kinds."""
    groups: dict[str, list[str]] = defaultdict(list)
    for remark in remarks:
        groups[remark.what].append(remark.file)
    kinds = [
        f"{files[0]!r} ({what})" + (f" and {len(files) - 1} others so" if files[1:] else "")
        for what, files in groups.items()
    ]
    more = f"; and {len(kinds) - _KINDS} other kinds" if len(kinds) > _KINDS else ""
    return "; ".join(kinds[:_KINDS]) + more


def about(remarks: Sequence[Remark]) -> list[str]:
    """Lines to print: how many files were not used, and what there is to know of used ones."""
    unused = [remark for remark in remarks if not remark.used]
    used = [remark for remark in remarks if remark.used]
    lines = []
    if unused:
        pictures = sum(is_picture(remark.file) for remark in unused)
        lines.append(
            f"not used: {len(unused)}, of which {pictures} are pictures (all are in remarks.csv): "
            f"{summary(unused)}"
        )
    if used:
        lines.append(f"pictures that are used, with a remark: {len(used)}: {summary(used)}")
    return lines


def table(remarks: Sequence[Remark]) -> str:
    """All remarks as csv."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("file", "used", "remark"))
    writer.writerows((r.file, "yes" if r.used else "no", r.what) for r in remarks)
    return file.getvalue()
