"""Cache folder, where what the commands make is kept for later runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pooch

CACHE_VARIABLE: Final = "METALEARN_CACHE"


def cache_folder() -> Path:
    """`$METALEARN_CACHE`, else the user's cache folder of the platform."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("hypergradients"))


def data_folder(root: Path | None) -> Path:
    """The folder of the prepared data sets: `root`, by default `data` in the cache folder."""
    return cache_folder() / "data" if root is None else root
