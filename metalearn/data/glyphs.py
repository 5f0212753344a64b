"""The built-in data set: characters (classes) across type faces (examples), without a download.

The 12 DejaVu faces that matplotlib ships are drawn at first use and kept in a per-user cache. Like
Omniglot, the task is to tell apart characters of scripts never seen in training: train on Latin
letters and digits, validate on Cyrillic, test on Greek, Armenian and Georgian.

The rule for one image: draw the character at 80 pixels per em, crop it to its ink, shrink it by
area averaging until its longest side is 20 pixels, and centre it in 28x28 (the odd pixel goes right
and down). Ink is 255.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFont, features

from metalearn.data.cache import CACHE_VARIABLE, cache_folder
from metalearn.data.pool import Pool
from metalearn.data.published import Split
from metalearn.errors import DataError
from metalearn.files import write_atomically

SIDE: Final = 28
LONGEST: Final = 20
EM: Final = 80
RULE: Final = f"em {EM}, crop, area to longest side {LONGEST}, centre in {SIDE}, ink 255, version 1"

FACES: Final = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
)

SCRIPTS: Final[dict[Split, tuple[str, ...]]] = {
    "train": ("LATIN", "DIGIT"),
    "validation": ("CYRILLIC",),
    "test": ("GREEK", "ARMENIAN", "GEORGIAN"),
}


@dataclass(frozen=True, slots=True)
class Glyph:
    """One class: a character.

    Attributes:
        char: the character.
        script: its script, in Unicode's upper-case name.
        name: its Unicode name.
    """

    char: str
    script: str
    name: str


def _class_list() -> bytes:
    return resources.files("metalearn.data").joinpath("glyph_classes.json").read_bytes()


@cache
def glyph_classes() -> tuple[Glyph, ...]:
    """The 461 classes, in the order of the images."""
    rows = json.loads(_class_list())["classes"]
    return tuple(Glyph(row["char"], row["script"], row["name"]) for row in rows)


def _draw(font: ImageFont.FreeTypeFont, char: str) -> UInt8[np.ndarray, "28 28"]:
    mask = font.getmask(char, mode="L")
    width, height = mask.size
    pixels = np.asarray(mask, dtype=np.uint8).reshape(height, width)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if rows.size == 0:
        raise DataError(
            f"{char!r} leaves no ink in {font.getname()}: it should be in all of matplotlib's "
            "DejaVu faces. Reinstall matplotlib."
        )
    ink = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shrink = LONGEST / max(ink.shape)
    high, wide = (max(1, round(side * shrink)) for side in ink.shape)
    small = Image.fromarray(ink).resize((wide, high), Image.Resampling.BOX)
    top, left = (SIDE - high) // 2, (SIDE - wide) // 2
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + high, left : left + wide] = np.asarray(small)
    return image


def render_glyphs() -> UInt8[np.ndarray, "461 12 28 28"]:
    """Draw every class in every face.

    Raises:
        DataError: a DejaVu face is missing from matplotlib, or lacks a character.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    glyphs = glyph_classes()
    images = np.empty((len(glyphs), len(FACES), SIDE, SIDE), np.uint8)
    for j, face in enumerate(FACES):
        path = folder / f"{face}.ttf"
        if not path.is_file():
            raise DataError(f"{path} is missing: glyphs are drawn from it. Reinstall matplotlib.")
        # The basic layout engine is in every Pillow; one character needs no shaping.
        font = ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)
        for i, glyph in enumerate(glyphs):
            images[i, j] = _draw(font, glyph.char)
    return images


def cache_file() -> Path:
    """File of the images; its name changes with all that their pixels depend on.

    The folder is `cache_folder()`.
    """
    depends = (
        _class_list(),
        RULE.encode(),
        " ".join(FACES).encode(),
        metadata.version("matplotlib").encode(),
        metadata.version("pillow").encode(),
        str(features.version("freetype2")).encode(),
    )
    key = hashlib.sha256(b"\0".join(depends)).hexdigest()[:16]
    return cache_folder() / f"glyphs-{key}.bin"


def glyph_images() -> UInt8[np.ndarray, "461 12 28 28"]:
    """All images, from the cache when it is whole, else drawn and cached.

    The file is a SHA-256 digest followed by the pixels: nothing to parse, and a truncated or
    altered file is noticed by its digest and drawn again.

    Raises:
        DataError: the images can't be drawn, or the cache can't be read or written.
    """
    path = cache_file()
    shape = (len(glyph_classes()), len(FACES), SIDE, SIDE)
    try:
        content = path.read_bytes() if path.exists() else b""
        digest, pixels = content[:32], content[32:]
        if hashlib.sha256(pixels).digest() == digest and len(pixels) == int(np.prod(shape)):
            return np.frombuffer(pixels, np.uint8).reshape(shape).copy()
        images = render_glyphs()
        pixels = images.tobytes()
        write_atomically(path, hashlib.sha256(pixels).digest() + pixels)
    except OSError as error:
        raise DataError(
            f"the glyphs can't be kept in {path.parent} ({error}). "
            f"Set {CACHE_VARIABLE} to a folder you can write to."
        ) from error
    return images


def glyph_pool(split: Split, *, device: torch.device | None = None) -> Pool:
    """The glyphs of one split: 256 training, 64 validation or 141 test classes, 12 images each.

    Raises:
        DataError: see `glyph_images`.
    """
    glyphs = glyph_classes()
    chosen = [i for i, glyph in enumerate(glyphs) if glyph.script in SCRIPTS[split]]
    images = torch.from_numpy(glyph_images()[chosen]).unsqueeze(2)
    return Pool(images.to(device), split, tuple(glyphs[i].name for i in chosen))
