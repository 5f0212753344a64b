"""Any of the forms a data set comes in, to the one form it is kept in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from metalearn.config.commands import PrepareConfig
from metalearn.data.cache import data_folder
from metalearn.data.download import download
from metalearn.data.pool import Split
from metalearn.data.published import SPLITS, DatasetName, Published, published
from metalearn.data.readers import EXPECTED, READERS
from metalearn.data.source import Part, Source
from metalearn.data.store import Store, write_store
from metalearn.data.untrusted.archives import Tree, open_tree
from metalearn.data.untrusted.images import RESAMPLING
from metalearn.errors import DataError

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz")

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


def _read(tree: Tree, known: Published, side: int) -> Source | None:
    for reader in READERS[known.name]:
        source = reader(tree, known, side)
        if source is not None:
            return source
    return None


def find_source(path: Path, name: DatasetName, *, side: int | None = None) -> Source:
    """What a folder or archive holds of a data set; the images are not read yet.

    A folder that holds nothing of it but one archive stands for the archive.

    Args:
        path: the folder or archive.
        name: of the data set.
        side: height and width for image files; by default as published.

    Raises:
        DataError: it holds none of it, or is damaged or unsafe.
    """
    known = published(name)
    tree = open_tree(path)
    source = _read(tree, known, side or known.side)
    if source is not None:
        return source
    archives = [] if tree.archive else [file for file in tree.sizes if file.endswith(ARCHIVES)]
    if len(archives) == 1:
        return find_source(path / archives[0], name, side=side)
    some = ", ".join(list(tree.sizes)[:5]) or "no file"
    raise DataError(
        f"{path} holds {some}, and nothing known of {name}: {EXPECTED[name]} was expected."
        + (" Give the archive to read as --source." if archives else "")
    )


def _join(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]

    def load() -> UInt8[np.ndarray, "n height width channels"]:
        return np.concatenate([part.load() for part in parts])

    return Part(parts[0].name, sum(part.count for part in parts), load)


def join(sources: Sequence[Source]) -> dict[Split, tuple[Part, ...]]:
    """The classes of several sources, those of one name joined.

    Raises:
        DataError: a class is in two splits.
    """
    splits: dict[Split, tuple[Part, ...]] = {}
    places: dict[str, Split] = {}
    for split in SPLITS:
        found: dict[str, list[Part]] = defaultdict(list)
        for source in sources:
            for part in source.splits.get(split, ()):
                found[part.name].append(part)
        for name in found:
            # A bare label means one thing in one split and another in the next.
            if not name.startswith("label ") and places.setdefault(name, split) != split:
                raise DataError(
                    f"class {name} is in the {places[name]} and the {split} split: episodes of one "
                    "would leak into the other. Get the files again."
                )
        splits[split] = tuple(_join(parts) for parts in found.values())
    return splits


def compare(splits: dict[Split, tuple[Part, ...]], known: Published) -> list[str]:
    """How the data falls short of what was published, one sentence each.

    Raises:
        DataError: there is more than was published, or something else.
    """
    lacking = []
    for split in SPLITS:
        parts = splits.get(split, ())
        if not parts:
            lacking.append(f"the {split} split is missing")
            continue
        names = {part.name for part in parts}
        strange = sorted(names - set((known.names or {}).get(split, names)))
        # Labels without names, and tieredImageNet's words, can't be compared.
        if any(known.split_of(name) for name in names) and strange:
            raise DataError(
                f"the {split} split has classes that {known.name} does not have there, such as "
                f"{strange[:3]}: give the data set itself."
            )
        classes, images = len(parts), sum(part.count for part in parts)
        wanted = (known.classes or {}).get(split, classes)
        total = (known.totals or {}).get(split, images)
        most = max(part.count for part in parts)
        if classes > wanted or images > total or most > (known.per_class or most):
            raise DataError(
                f"the {split} split has {classes} classes and {images} images, up to {most} a "
                f"class, more than published ({wanted} classes, {known.per_class or total} images"
                f"{' a class' if known.per_class else ''}): give each source once."
            )
        if classes < wanted:
            lacking.append(f"{split} has {classes} of {wanted} classes")
        short = [part for part in parts if part.count < (known.per_class or 0)]
        if short:
            least = min(part.count for part in short)
            lacking.append(
                f"{len(short)} classes of {split} have fewer than {known.per_class} images "
                f"({least} the least)"
            )
        if images < total:
            lacking.append(f"{split} has {images} of {total} images")
    return lacking


def _about(known: Published, sources: Sequence[Source], lacking: list[str]) -> dict[str, Any]:
    files = [file for source in sources for file in source.files]
    return {
        "dataset": known.name,
        "partial": bool(lacking),
        "lacking": lacking,
        "resampling": RESAMPLING,
        "source": {
            "layouts": [source.layout for source in sources],
            "notes": [note for source in sources for note in source.notes],
            "files": [file | {"official": OFFICIAL.get(file.get("md5", ""))} for file in files],
        },
    }


def prepare(config: PrepareConfig, *, console: Console | None = None) -> Store:
    """Read a data set in whatever form, check it against what was published, and store it.

    Args:
        config: what to read and where to put it.
        console: where to say what was written.

    Raises:
        DataError: a file can't be downloaded; the source is damaged, unsafe, or not the data set;
            or the result can't be written.
    """
    known = published(config.dataset)
    side = config.side or known.side
    paths = config.source
    if config.download:
        files = data_folder(config.root) / "downloads" / config.dataset
        paths = (download(config.dataset, files, console=console),)
    sources = [find_source(path, config.dataset, side=side) for path in paths]
    splits = join(sources)
    lacking = compare(splits, known)
    if not any(splits.values()):
        raise DataError(f"{paths[0]} holds no image of {known.name}.")
    if lacking and not config.allow_partial and known.classes is not None:
        raise DataError(
            f"the source is not all of {known.name}: {'; '.join(lacking)}. Complete it, or accept "
            "it with --allow-partial (results are then not comparable with published ones)."
        )
    images = sum(part.count for parts in splits.values() for part in parts)
    with nullcontext() if console is None else console.status(f"writing {images} images"):
        store = write_store(
            data_folder(config.root) / config.dataset,
            splits,
            side=side,
            channels=known.channels,
            about=_about(known, sources, lacking),
        )
    if console is not None:
        for path, source in zip(paths, sources, strict=True):
            console.print(f"{path}: read as {source.layout}", soft_wrap=True, highlight=False)
        for split, entry in store.manifest["splits"].items():
            console.print(f"{split}: {entry['classes']} classes, {entry['images']} images")
        said = f"written to {store.path}" + (f", partial: {'; '.join(lacking)}" if lacking else "")
        console.print(said, soft_wrap=True, highlight=False)
    return store
