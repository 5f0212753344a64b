"""Data sets: `glyph_pool(split)` gives the images of the built-in one."""

from metalearn.data.glyphs import glyph_pool
from metalearn.data.pool import Pool, Split

__all__ = ["Pool", "Split", "glyph_pool"]
