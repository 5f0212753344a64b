"""Image files: by split and class, by a csv or json, or as tiny-imagenet-200 lays them out."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from metalearn.data.published import SPLIT_NAMES, SPLITS, Published, Split
from metalearn.data.source import Source, image_part, record_images
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError

_IMAGE: Final = r"[^/]+\.(?:png|jpg|jpeg)"
_BY_CLASS: Final = re.compile(
    rf"(?:.*/)?(train|val|valid|validation|test)/([^/]+)/{_IMAGE}", re.IGNORECASE
)
_TINY: Final = re.compile(rf"(?:.*/)?train/(n\d{{8}})/images/{_IMAGE}", re.IGNORECASE)
_CIFAR: Final = re.compile(r"(?:.*/)?data/([^/]+)/[^/]+\.png")
_CIFAR_LIST: Final = re.compile(r"(?:.*/)?splits/bertinetto/(train|val|test)\.txt")
_UNREAD: Final = ("webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif", "heic", "jp2")
_FILE: Final = re.compile(_IMAGE, re.IGNORECASE)
_Files = Mapping[Split, Mapping[str, Sequence[str]]]


def _source(
    tree: Tree, files: _Files, published: Published, side: int, layout: str, *notes: str
) -> Source:
    splits = {
        split: tuple(
            image_part(tree, name, sorted(found), published, side=side)
            for name, found in files.get(split, {}).items()
        )
        for split in SPLITS
    }
    others = Counter(name.rpartition(".")[2].lower() for name in tree.sizes)
    left = [f"{others[end]} .{end}" for end in _UNREAD if others[end]]
    if left:
        notes += (f"images of other formats than PNG and JPEG were left out: {', '.join(left)}",)
    used = [name for classes in files.values() for found in classes.values() for name in found]
    return Source(layout, splits, record_images(tree, used), notes)


def _sorted(files: _Files) -> _Files:
    return {split: dict(sorted(classes.items())) for split, classes in files.items()}


def read_folders(tree: Tree, published: Published, side: int) -> Source | None:
    """`{train,val,test}/CLASS/*`, whatever the images' sizes.

    Raises:
        DataError: an archive can't be read.
    """
    files: dict[Split, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in tree.sizes:
        match = _BY_CLASS.fullmatch(name)
        if match:
            files[SPLIT_NAMES[match[1].lower()]][match[2]].append(name)
    return _source(tree, _sorted(files), published, side, "image folders") if files else None


def read_tiny_imagenet(tree: Tree, published: Published, side: int) -> Source | None:
    """`train/WNID/images/*`: the split of a class is the published one; others are left out.

    Raises:
        DataError: no class is one of the data set's, or an archive can't be read.
    """
    files: dict[Split, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
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
    return _source(tree, _sorted(files), published, side, "tiny-imagenet folders", note)


def read_cifar100_images(tree: Tree, published: Published, side: int) -> Source | None:
    """`cifar100.zip` of R2-D2 and learn2learn: `cifar100/data/CLASS/*.png` and lists of classes.

    The split is the published one of the data set asked for.

    Raises:
        DataError: the lists in the archive are not those of CIFAR-FS, or a file is damaged.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in tree.sizes:
        match = _CIFAR.fullmatch(name)
        if match:
            found[match[1]].append(name)
        listed = _CIFAR_LIST.fullmatch(name)
        if listed and published.name == "cifar-fs" and published.names:
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
    files = {
        split: {name: found[name] for name in names if name in found}
        for split, names in (published.names or {}).items()
    }
    return _source(tree, files, published, side, "CIFAR-100 images by class")


def read_csv(tree: Tree, published: Published, side: int) -> Source | None:
    """`{train,val,test}.csv` and the images they name, in any folder of the source.

    The columns are `filename,label`, or EasyFSL's `image_name,class_name`.

    Raises:
        DataError: a csv can't be read or has other columns, or an image has no unique place.
    """
    files: dict[Split, dict[str, list[str]]] = {}
    places: dict[str, list[str]] = defaultdict(list)
    listed = {
        split: found
        for split, bases in (("train", ("train.csv",)), ("test", ("test.csv",)))
        if (found := tree.find(*bases)) is not None
    }
    middle = tree.find("val.csv", "validation.csv")
    if middle is not None:
        listed["validation"] = middle
    if not listed:
        return None
    for name in tree.sizes:
        base = name.rpartition("/")[2]
        if _FILE.fullmatch(base):
            places[base].append(name)
    absent = 0
    for split in SPLITS:
        if split not in listed:
            continue
        label = f"{tree.name}/{listed[split]}"
        with reading(label, "a csv file"):
            # a spreadsheet's mark of its encoding is no part of the first column's name
            lines = tree.read(listed[split]).decode("utf-8-sig").splitlines()
            rows = [
                {k.strip(): v.strip() for k, v in row.items() if k is not None and v is not None}
                for row in csv.DictReader(lines)
            ]
        classes: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            image = row.get("filename") or row.get("image_name")
            class_name = row.get("label") or row.get("class_name")
            if not image or not class_name:
                raise DataError(
                    f"{label} has columns {list(row)[:4]}, where filename and label (or image_name "
                    "and class_name) were expected."
                )
            image = image.replace("\\", "/").removeprefix("./")
            there = places.get(image.rpartition("/")[2], [])
            if len(there) > 1:
                there = [name for name in there if f"/{name}".endswith(f"/{image}")]
            if len(there) > 1:
                raise DataError(f"{tree.name} has several files {image}: leave one.")
            absent += not there
            classes[class_name] += there
        files[split] = {name: found for name, found in classes.items() if found}
    note = f"{absent} images that the csv files name are absent"
    return _source(
        tree, _sorted(files), published, side, "csv and images", *([note] if absent else [])
    )


def _roots(content: object) -> list[tuple[str, str]] | None:
    """Names and folders of classes; None when this is not one of EasyFSL's files."""
    if not isinstance(content, dict):
        return None
    lists = [content.get("class_names"), content.get("class_roots")]
    plain = all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in lists)
    return list(zip(*lists, strict=True)) if plain else None


def read_json(tree: Tree, published: Published, side: int) -> Source | None:
    """EasyFSL's `{train,val,test}.json`: `class_names`, and their folders as `class_roots`.

    A root may begin above or below the folder that was given. A class is called by its folder where
    that is a published name.

    Raises:
        DataError: a json can't be read, or names a folder that isn't there.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for name in tree.sizes:
        folder, _, base = name.rpartition("/")
        if _FILE.fullmatch(base):
            folders[folder].append(name)
    files: dict[Split, dict[str, list[str]]] = {}
    taken: set[str] = set()
    for stem in ("train", "val", "test"):
        listed = tree.find(f"{stem}.json")
        if listed is None:
            continue
        label = f"{tree.name}/{listed}"
        with reading(label, "a json file"):
            roots = _roots(json.loads(tree.read(listed)))
        if roots is None:
            continue
        classes: dict[str, list[str]] = {}
        for class_name, root in roots:
            root = root.strip("/")
            there = [
                folder
                for folder in folders
                if f"/{folder}".endswith(f"/{root}") or f"/{root}".endswith(f"/{folder}")
            ]
            if len(there) != 1:
                raise DataError(
                    f"{label} names the folder {root[:100]!r}, and {len(there)} in {tree.name} "
                    "fit: give the folder that holds the json files and the images they name."
                )
            if there[0] in taken:
                raise DataError(f"{label} names the folder {root[:100]!r} a second time.")
            taken.add(there[0])
            last = root.rpartition("/")[2]
            classes[last if published.split_of(last) else class_name] = folders[there[0]]
        files[SPLIT_NAMES[stem]] = classes
    return _source(tree, _sorted(files), published, side, "json and images") if files else None
