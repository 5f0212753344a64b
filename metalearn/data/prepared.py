"""Pools of the data sets that `metalearn prepare` has made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from metalearn.config.choices import Residency as Residency
from metalearn.data.cache import data_folder
from metalearn.data.pool import Pool, Split
from metalearn.data.published import DatasetName
from metalearn.data.store import open_store
from metalearn.errors import DataError


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
        device: where episodes are wanted; by default the CPU.
        residency: device or host; auto is device where the images take up to half of a GPU's free
            memory, and host on the CPU, whose page cache keeps what is used.

    Raises:
        DataError: the data set isn't prepared, its files are damaged, or it doesn't fit the device.
    """
    folder = data_folder(root) / dataset
    if not folder.is_dir():
        raise DataError(
            f"{dataset} is not in {folder.parent}: make it with `metalearn prepare {dataset}`."
        )
    pool = open_store(folder).split(split).pool()
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
