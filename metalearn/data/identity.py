"""Which images a result was computed from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from metalearn.data.cache import data_folder
from metalearn.data.glyphs import glyph_images
from metalearn.data.published import DatasetName, published
from metalearn.data.store import MANIFEST, open_store
from metalearn.errors import DataError


@dataclass(frozen=True, slots=True)
class Identity:
    """What data a run has seen.

    Attributes:
        name: of the data set, with its size where that is not the published one; "partial" stands
            behind it where images that were published lack.
        sha256: of the glyphs' pixels, or of a prepared data set's manifest (which holds those of
            its files).
    """

    name: str
    sha256: str


def glyphs_identity() -> Identity:
    """Of the built-in glyphs.

    Raises:
        DataError: they can't be rendered or cached.
    """
    return Identity("glyphs", hashlib.sha256(glyph_images().tobytes()).hexdigest())


def prepared_identity(dataset: DatasetName, *, root: Path | None = None) -> Identity:
    """Of a prepared data set, every file of which is checked against its manifest.

    Raises:
        DataError: it isn't prepared, or a file was changed since.
    """
    folder = data_folder(root) / dataset
    if not folder.is_dir():
        raise DataError(
            f"{dataset} is not in {folder.parent}: make it with `metalearn prepare {dataset}`."
        )
    store = open_store(folder)
    store.verify()
    manifest = (folder / MANIFEST).read_bytes()
    content = json.loads(manifest)
    side, usual = store.split("test").images.shape[-1], published(dataset).side
    name = dataset if side == usual else f"{dataset} at {side} pixels"
    if content.get("partial"):
        name += ", partial"
    return Identity(name, hashlib.sha256(manifest).hexdigest())
