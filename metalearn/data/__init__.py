"""Data sets: `glyph_pool` gives the built-in one, `prepared_pool` what `metalearn prepare` made."""

from metalearn.data.glyphs import glyph_pool
from metalearn.data.identity import Identity, glyphs_identity, prepared_identity
from metalearn.data.pool import Pool, Split
from metalearn.data.prepared import Residency, prepared_pool
from metalearn.data.published import DatasetName

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
