"""Folders of pictures: by split and class, by class alone, or as tiny-imagenet-200 and others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from metalearn.data.published import SPLIT_NAMES, SPLITS, Published, Split
from metalearn.data.source import Part, Remark, Source, image_part, record_images
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.images import ENDINGS, ending
from metalearn.errors import DataError

_IMAGE: Final = rf"[^/]+\.(?:{'|'.join(sorted(ENDINGS))})"
_BY_CLASS: Final = re.compile(
    rf"(?:.*/)?(train|val|valid|validation|test)/([^/]+)/{_IMAGE}", re.IGNORECASE
)
_TINY: Final = re.compile(rf"(?:.*/)?train/(n\d{{8}})/images/{_IMAGE}", re.IGNORECASE)
_CIFAR: Final = re.compile(r"(?:.*/)?data/([^/]+)/[^/]+\.png")
_CIFAR_LIST: Final = re.compile(r"(?:.*/)?splits/bertinetto/(train|val|test)\.txt")
Files = Mapping[Split | None, Mapping[str, Sequence[str]]]
"""Pictures of each class of each split; None stands for no split."""


def source_of(
    tree: Tree,
    files: Files,
    published: Published,
    side: int,
    layout: str,
    *notes: str,
    lists: Sequence[str] = (),
    remarks: Mapping[str, Remark] | None = None,
    elsewhere: str = "not in a folder of a class",
) -> Source:
    """A source of picture files.

    Args:
        tree: folder or archive that holds them.
        files: pictures of each class of each split.
        published: the data set.
        side: pixels to resize them to.
        layout: the form they were found in.
        notes: further notes for the user.
        lists: files that say which picture is of which class.
        remarks: remarks on single files.
        elsewhere: why a picture that is not in `files` is not used.
    """
    noted = dict(remarks or {})

    def parts(split: Split | None) -> tuple[Part, ...]:
        return tuple(
            image_part(tree, name, sorted(found), published, side=side, remarks=noted)
            for name, found in files.get(split, {}).items()
        )

    used = [name for classes in files.values() for found in classes.values() for name in found]
    return Source(
        layout,
        {split: parts(split) for split in SPLITS},
        record_images(tree, used),
        {*used, *lists},
        notes,
        parts(None),
        elsewhere,
        noted,
    )


def ordered(files: Files) -> Files:
    """The same files, classes by name."""
    return {split: dict(sorted(classes.items())) for split, classes in files.items()}


def read_folders(tree: Tree, published: Published, side: int) -> Source | None:
    """`{train,val,test}/CLASS/*`, whatever the images' sizes.

    Raises:
        DataError: an archive can't be read.
    """
    files: dict[Split | None, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in tree.sizes:
        match = _BY_CLASS.fullmatch(name)
        if match:
            files[SPLIT_NAMES[match[1].lower()]][match[2]].append(name)
    if not files:
        return None
    elsewhere = "not in a folder CLASS of train, val or test"
    return source_of(tree, ordered(files), published, side, "image folders", elsewhere=elsewhere)


def read_classes(tree: Tree, published: Published, side: int) -> Source | None:
    """`CLASS/*`: folders of classes beside each other, in no split.

    Raises:
        DataError: two folders hold as many pictures in folders of classes; or an archive can't be
            read.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in tree.sizes:
        folder = name.rpartition("/")[0]
        if folder and ending(name) in ENDINGS:
            parent, _, label = folder.rpartition("/")
            found[parent][label].append(name)
    if not found:
        return None
    sizes = {parent: sum(map(len, classes.values())) for parent, classes in found.items()}
    largest = [parent for parent, size in sizes.items() if size == max(sizes.values())]
    if len(largest) > 1:
        raise DataError(
            f"{tree.name} holds folders of classes in {' and in '.join(map(repr, largest[:4]))}: "
            "give the one folder whose folders are the classes."
        )
    beside = f"in {largest[0]}" if largest[0] else "at the top"
    return source_of(
        tree,
        ordered({None: found[largest[0]]}),
        published,
        side,
        "folders of classes",
        elsewhere=f"not in a folder CLASS {beside}, where the classes are",
    )


def read_tiny_imagenet(tree: Tree, published: Published, side: int) -> Source | None:
    """`train/WNID/images/*`: the split of a class is the published one; others are left out.

    Raises:
        DataError: no class is one of the data set's, or an archive can't be read.
    """
    files: dict[Split | None, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    others = set()
    for name in tree.sizes:
        match = _TINY.fullmatch(name)
        if match:
            split = published.split_of(match[1])
            if split is None:
                others.add(match[1])
            else:
                files[split][match[1]].append(name)
    if not files:
        if others:
            raise DataError(f"{tree.name} holds no class of {published.name}: give another source.")
        return None
    note = f"{len(others)} classes that are in no split of {published.name} were left out"
    elsewhere = f"of a class that is in no split of {published.name}, or not in train"
    layout = "tiny-imagenet folders"
    return source_of(tree, ordered(files), published, side, layout, note, elsewhere=elsewhere)


def read_cifar100_images(tree: Tree, published: Published, side: int) -> Source | None:
    """`cifar100.zip` of R2-D2 and learn2learn: `cifar100/data/CLASS/*.png` and lists of classes.

    The split is the published one of the data set asked for.

    Raises:
        DataError: the lists in the archive are not those of CIFAR-FS, or a file is damaged.
    """
    found: dict[str, list[str]] = defaultdict(list)
    lists = []
    for name in tree.sizes:
        match = _CIFAR.fullmatch(name)
        if match:
            found[match[1]].append(name)
        listed = _CIFAR_LIST.fullmatch(name)
        if listed and published.name == "cifar-fs" and published.names:
            lists.append(name)
            content = tree.read(name).decode("utf-8", "replace").split()
            if set(content) != set(published.names[SPLIT_NAMES[listed[1]]]):
                raise DataError(
                    f"{tree.name}/{name} lists other classes than CIFAR-FS has in this split: get "
                    "the official archive."
                )
    if not found:
        return None
    unknown = sorted(name for name in found if published.split_of(name) is None)
    if unknown:
        raise DataError(f"{tree.name} has folders that are no class of CIFAR-100: {unknown[:5]}.")
    files: Files = {
        split: {name: found[name] for name in names if name in found}
        for split, names in (published.names or {}).items()
    }
    return source_of(tree, files, published, side, "CIFAR-100 images by class", lists=lists)
