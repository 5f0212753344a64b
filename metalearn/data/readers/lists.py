"""Pictures that a list names, each with its class: csv, json, JSON lines, or MATLAB's labels."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from typing import Any, Final, TypeAlias

from metalearn.data.published import SPLIT_NAMES, Published, Split
from metalearn.data.readers.checks import text
from metalearn.data.readers.folders import ordered, source_of
from metalearn.data.source import Remark, Source
from metalearn.data.untrusted.archives import Tree
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.images import ENDINGS, ending
from metalearn.errors import DataError

_Rows: TypeAlias = list[tuple[str, str]]
"""A picture's path and its class."""

_KINDS: Final = ("csv", "json", "jsonl", "mat")
_SPLITS: Final[dict[str, Split]] = SPLIT_NAMES | {"base": "train", "novel": "test"}
# Lists of all classes: Meta-Album's, Hugging Face's (or one in each split's folder), VGG Flowers'.
_WHOLE: Final = ("labels", "metadata", "imagelabels")
_IMAGE: Final = ("filename", "file_name", "image_name")
_CLASS: Final = ("label", "class_name", "category")


def _lists(tree: Tree, kind: str, own: bool) -> dict[Split | None, str]:
    """The list of each split, or the one of no split."""
    found: dict[Split | None, list[str]] = defaultdict(list)
    for name in tree.sizes:
        folder, _, base = name.rpartition("/")
        stem = base.removesuffix(f".{kind}")
        if stem == base:
            continue
        if stem in _SPLITS and kind != "mat":
            found[_SPLITS[stem]].append(name)
        elif own and stem in _WHOLE:
            found[SPLIT_NAMES.get(folder.rpartition("/")[2].lower())].append(name)
    if len(found) > 1:
        found.pop(None, None)
    for several in found.values():
        if len(several) > 1:
            raise DataError(
                f"{tree.name} holds several lists for one: {', '.join(several[:4])}. Give the "
                "folder with the one to read."
            )
    return {split: names[0] for split, names in found.items()}


def _pairs(rows: list[dict[str, Any]], label: str) -> _Rows:
    """Columns that matter of each row, whatever they are called."""
    pairs = []
    for at, row in enumerate(rows, start=1):
        known = {str(key).strip().lower(): value for key, value in row.items()}
        image, name = (
            next((known[key] for key in keys if known.get(key) not in (None, "")), None)
            for keys in (_IMAGE, _CLASS)
        )
        if not (known.keys() & set(_IMAGE) and known.keys() & set(_CLASS)):
            raise DataError(
                f"{label} has columns {list(row)[:4]}, where filename and label (or image_name "
                "and class_name, or file_name and category) were expected, separated by commas."
            )
        if image is None or name is None:
            missing = "filename" if image is None else "label"
            raise DataError(f"{label} has no {missing} in entry {at}: give one, or leave it out.")
        pairs.append((text(image).strip(), text(name).strip()))
    return pairs


def _csv(content: bytes, label: str) -> _Rows:
    # a spreadsheet's mark of its encoding is no part of the first column's name
    rows = csv.DictReader(content.decode("utf-8-sig").splitlines())
    return _pairs([{k: v for k, v in row.items() if k is not None} for row in rows], label)


def _json(content: bytes, label: str, tree: Tree, published: Published) -> _Rows | None:
    """Rows of a list of objects, or of the dicts of EasyFSL and of "A Closer Look"; else None."""
    found = json.loads(content)
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return _pairs(found, label)
    if not isinstance(found, dict):
        return None

    def texts(key: str) -> list[str] | None:
        value = found.get(key)
        plain = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return value if plain else None

    names, roots = texts("class_names"), texts("class_roots")
    if names is not None and roots is not None:
        return _below(tree, dict(zip(roots, names, strict=True)), label, published)
    names, images = texts("label_names"), texts("image_names")
    if names is not None and images is not None:
        labels = [text(value) for value in found.get("image_labels", ())]
        return [(image, names[int(i)]) for image, i in zip(images, labels, strict=True)]
    return None


def _below(tree: Tree, roots: dict[str, str], label: str, published: Published) -> _Rows:
    """The pictures in folders of classes, whose paths may begin above or below the tree's.

    A class is called by its folder where that is a published name.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for name in tree.sizes:
        if ending(name) in ENDINGS:
            folders[name.rpartition("/")[0]].append(name)
    rows = []
    for root, name in roots.items():
        there = [folder for folder in folders if _fit(folder, root.strip("/"))]
        if len(there) != 1:
            raise DataError(
                f"{label} names the folder {root[:100]!r}, and {len(there)} in {tree.name} "
                "fit: give the folder that holds the json files and the images they name."
            )
        last = root.strip("/").rpartition("/")[2]
        called = last if published.split_of(last) else name
        rows += [(file, called) for file in folders[there[0]]]
    return rows


def _labels(content: bytes) -> _Rows:
    """VGG Flowers' `imagelabels.mat`: the class of `image_00001.jpg`, of the next, and so on."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        labels = loadmat(io.BytesIO(content), variable_names=["labels"])["labels"].ravel()
    except MatReadError as error:
        raise ValueError(str(error)) from error
    return [(f"image_{i:05d}.jpg", f"{int(label):03d}") for i, label in enumerate(labels, 1)]


def _fit(one: str, other: str) -> bool:
    """True if the longer of two paths ends in the shorter."""
    one, other = f"/{one}", f"/{other}"
    return one.endswith(other) or other.endswith(one)


def _read(tree: Tree, name: str, kind: str, published: Published) -> _Rows | None:
    label = f"{tree.name}/{name}"
    with reading(label, f"a list ({kind} file)"):
        content = tree.read(name)
        match kind:
            case "csv":
                return _csv(content, label)
            case "mat":
                return _labels(content)
            case "jsonl":
                lines = content.decode("utf-8-sig").splitlines()
                rows = [json.loads(line) for line in lines if line.strip()]
                return _pairs([dict(row) for row in rows], label)
            case _:
                return _json(content, label, tree, published)


def read_lists(tree: Tree, published: Published, side: int) -> Source | None:
    """Lists and the pictures that they name, in any folder of the source.

    A list is `{train,val,test}` (or base and novel) with the ending csv, json or jsonl. For own
    pictures there may be one list of all classes instead: `labels` or `metadata`, or VGG Flowers'
    `imagelabels.mat`.

    Raises:
        DataError: a list can't be read, has other columns, names a picture twice or one that has no
            unique place; or there are several lists for one.
    """
    for kind in _KINDS:
        lists = _lists(tree, kind, published.classes is None)
        rows = {split: _read(tree, name, kind, published) for split, name in lists.items()}
        rows = {split: found for split, found in rows.items() if found is not None}
        if rows:
            break
    else:
        return None
    places: dict[str, list[str]] = defaultdict(list)
    for name in tree.sizes:
        places[name.rpartition("/")[2]].append(name)
    files: dict[Split | None, dict[str, list[str]]] = {}
    remarks: dict[str, Remark] = {}
    taken: set[str] = set()
    for split, found in rows.items():
        classes = files[split] = defaultdict(list)
        folder = lists[split].rpartition("/")[0]
        for image, name in found or ():
            image = image.replace("\\", "/").removeprefix("./")
            near = f"{folder}/{image}".removeprefix("/")
            there = places[image.rpartition("/")[2]]
            if len(there) > 1:
                exact = [path for path in (near, image) if path in tree.sizes][:1]
                there = exact or [path for path in there if _fit(path, image)]
            if len(there) > 1:
                raise DataError(f"{tree.name} has several files {image}: leave one.")
            if not there:
                what = f"named by {lists[split]}, and absent"
                remarks[f"{split} {image}"] = Remark(f"{tree.name}/{image}", False, what)
                continue
            if there[0] in taken:
                raise DataError(
                    f"{tree.name}/{lists[split]} names {image[:200]} a second time: leave the one "
                    "row that is right."
                )
            taken.add(there[0])
            classes[name].append(there[0])
    notes = [f"{len(remarks)} images that the {kind} files name are absent"] if remarks else []
    return source_of(
        tree,
        ordered(files),
        published,
        side,
        f"{kind} and images",
        *notes,
        lists=list(lists.values()),
        remarks=remarks,
        elsewhere="named by no list",
    )
