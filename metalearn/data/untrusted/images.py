"""Decodes one picture file as a person sees it: of bounded size, grey or colour as asked."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from metalearn.data.untrusted.damage import explained, reading
from metalearn.errors import DataError

PIXELS: Final = 2**25  # the largest photograph of ILSVRC-2012 has less
RESAMPLING: Final = "box (area average)"
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
ENDINGS: Final = frozenset(
    ("png", "jpg", "jpeg", "jfif", "webp", "gif", "tif", "tiff", "bmp", "ppm", "pgm", "pbm")
)
"""Last parts of the names of files in `FORMATS`, in small letters."""
UNREAD: Final = frozenset(
    ("avif", "heic", "heif", "jp2", "jxl", "svg", "tga", "psd", "dng", "cr2", "nef", "arw")
)
"""Last parts of the names of pictures that are not read."""


def ending(name: str) -> str:
    """The last part of a file's name, after its last dot, in small letters."""
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def resize(
    image: UInt8[np.ndarray, "height width channels"], side: int
) -> UInt8[np.ndarray, "side side channels"]:
    """The image at another size, by area averaging; as it is when it has that size."""
    if image.shape[:2] == (side, side):
        return image
    whole = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    small = whole.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.uint8).reshape(side, side, -1)


def _in_8_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey of 16 bits scaled to 8: Pillow's conversion would clip it to white.

    Raises:
        DataError: the picture has more bits, so that no value is known to be white.
    """
    deep = image.mode == "F" or (image.mode == "I" and image.format != "PPM")
    if deep:
        raise DataError(
            f"{name} has grey values of 32 bits, of which none is known to be white: save it with "
            "8 or 16 bits."
        )
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image, np.float64)
    if isinstance(image.info.get("transparency"), int):  # one value stands for no ink
        values = np.where(values == image.info["transparency"], 65535, values)
    return Image.fromarray(np.round(values * (255 / 65535)).astype(np.uint8))


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay transparent parts on white: dropping the transparency would show what it hides."""
    if not image.has_transparency_data:
        return image
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA"))


def _opened(content: bytes, failed: str) -> Image.Image:
    """The picture, its pixels not yet read; Pillow's own message names an address in memory."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        if explained(content[:512]):
            raise
        raise DataError(f"{failed}: it is of another kind, or damaged.") from error


@contextmanager
def _bounded(name: str) -> Iterator[None]:
    """Turn what Pillow itself raises for too many pixels into a typed error."""
    try:
        yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name} has more than {PIXELS} pixels: it may be a decompression bomb. Remove it, or "
            "make it smaller."
        ) from error


def _ignore(_: str) -> None:
    pass


def decode(
    content: bytes,
    name: str,
    *,
    side: int,
    channels: Literal[1, 3],
    invert: bool = False,
    tell: Callable[[str], object] = _ignore,
) -> UInt8[np.ndarray, "side side channels"]:
    """Pixels of a picture, resized; grey becomes RGB where colour is asked for, and back.

    A photograph is turned upright as its EXIF data say. Grey of 16 bits is scaled to 8, what is
    transparent becomes white, and drawings of 1 bit become grey before they are resized, so that
    their lines stay smooth. Colour profiles are not applied. Of several frames the first is read.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.
        side: height and width to give the image.
        channels: 3 for RGB, 1 for grey.
        invert: turn dark into light.
        tell: receives what is not read of the file, if anything.

    Raises:
        DataError: the bytes are no picture of a format that is read, or are damaged, or hold too
            many pixels or grey values of 32 bits.
    """
    what = "a picture (PNG, JPEG, WebP, GIF, TIFF, BMP or PPM)"
    with reading(name, what, content[:512]), _bounded(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _opened(content, f"{name} can't be read as {what}") as image:
            width, height = image.size
            if width * height > PIXELS:
                raise DataError(
                    f"{name} has {width}x{height} pixels, above {PIXELS}: it may be a "
                    "decompression bomb. Remove it, or make it smaller."
                )
            # The other pictures of an MPO, a JPEG of a telephone, are the first again or its depth.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                tell("has several frames, of which the first is read")
            ImageOps.exif_transpose(image, in_place=True)
            plain = _on_paper(_in_8_bits(image, name))
            pixels = np.asarray(plain.convert("L" if channels == 1 else "RGB"), np.uint8)
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    return resize(255 - pixels if invert else pixels, side)
