"""Pools of the data sets that `metalearn prepare` has made, and which images they hold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from metalearn.config.choices import Residency as Residency
from metalearn.data.cache import data_folder
from metalearn.data.glyphs import glyph_images
from metalearn.data.pool import Pool
from metalearn.data.published import DatasetName, Split, published
from metalearn.data.store import MANIFEST, Store, open_store
from metalearn.errors import DataError


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of the data that a run has seen.

    Attributes:
        name: name of the data set, with its size where that is not the published one; "partial"
            stands behind it where images that were published are missing.
        sha256: digest of the glyphs' pixels, or of a prepared data set's manifest (which holds
            those of its files).
    """

    name: str
    sha256: str


def glyphs_identity() -> Identity:
    """The identity of the built-in glyphs.

    Raises:
        DataError: the glyphs can't be rendered or cached.
    """
    return Identity("glyphs", hashlib.sha256(glyph_images().tobytes()).hexdigest())


def prepared_identity(dataset: DatasetName, *, root: Path | None = None) -> Identity:
    """The identity of a prepared data set, every file of which is checked against its manifest.

    Raises:
        DataError: the data set isn't prepared, or a file was changed since.
    """
    store = _open(dataset, root)
    store.verify()
    manifest = (store.path / MANIFEST).read_bytes()
    content = json.loads(manifest)
    side, usual = store.split("test").images.shape[-1], published(dataset).side
    name = dataset if side == usual else f"{dataset} at {side} pixels"
    if content.get("partial"):
        name += ", partial"
    return Identity(name, hashlib.sha256(manifest).hexdigest())


def _open(dataset: DatasetName, root: Path | None) -> Store:
    folder = data_folder(root) / dataset
    if not folder.is_dir():
        raise DataError(
            f"{dataset} is not in {folder.parent}: make it with `metalearn prepare {dataset}`."
        )
    return open_store(folder)


def _free(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free


def prepared_pool(
    dataset: DatasetName,
    split: Split,
    *,
    root: Path | None = None,
    device: torch.device | None = None,
    residency: Residency = "auto",
) -> Pool:
    """The images of one split of a prepared data set.

    The images are copied to the device, or stay mapped from the file and are gathered by the host
    as they are drawn (`metalearn.tasks.stream` then does that while the device is busy).

    Args:
        dataset: its name.
        split: which.
        root: the folder `metalearn prepare` was given; by default the cache folder's.
        device: device of the episodes; by default the CPU.
        residency: device or host; auto is device where the images take up to half of a GPU's free
            memory, and host on the CPU, whose page cache keeps what is used.

    Raises:
        DataError: the data set isn't prepared, its files are damaged, or it doesn't fit the device.
    """
    pool = _open(dataset, root).split(split).pool()
    device = torch.device("cpu") if device is None else device
    if residency == "host" or (residency == "auto" and device.type != "cuda"):
        return replace(pool, target=device)
    if device.type == "cuda":
        needed, free = pool.images.nbytes, _free(device)
        if residency == "auto" and needed > free // 2:
            return replace(pool, target=device)
        if needed > free:
            raise DataError(
                f"{dataset} takes {needed} bytes and {device} has {free} free: use residency host."
            )
    # A copy, also where the images are on this device: mapped from the file.
    return replace(pool, images=pool.images.to(device, copy=True))
