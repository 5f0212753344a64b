"""Data sets: `glyph_pool` gives the built-in one, `prepared_pool` what `metalearn prepare` made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from metalearn.data.published import DatasetName, Split

if TYPE_CHECKING:
    from metalearn.data.glyphs import glyph_pool
    from metalearn.data.pool import Pool
    from metalearn.data.prepared import (
        Identity,
        Residency,
        glyphs_identity,
        prepared_identity,
        prepared_pool,
    )

__all__ = [
    "DatasetName",
    "Identity",
    "Pool",
    "Residency",
    "Split",
    "glyph_pool",
    "glyphs_identity",
    "prepared_identity",
    "prepared_pool",
]

# Imported when first asked for: the process that reads files needs none of these, nor torch.
_PLACES = dict.fromkeys(__all__, "prepared") | {"Pool": "pool", "glyph_pool": "glyphs"}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
