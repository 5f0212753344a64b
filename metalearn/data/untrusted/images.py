"""Decodes one image file: PNG or JPEG only, of bounded size, grey or colour as asked."""

from __future__ import annotations

import io
import warnings
from typing import Final, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError

PIXELS: Final = 2**25  # the largest photograph of ILSVRC-2012 has less
RESAMPLING: Final = "box (area average)"


def resize(
    image: UInt8[np.ndarray, "height width channels"], side: int
) -> UInt8[np.ndarray, "side side channels"]:
    """The image at another size, by area averaging; as it is when it has that size."""
    if image.shape[:2] == (side, side):
        return image
    whole = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    small = whole.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.uint8).reshape(side, side, -1)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8: Pillow's conversion would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(np.round(np.asarray(image, np.float64) * (255 / 65535)).astype(np.uint8))


def _on_paper(image: Image.Image) -> Image.Image:
    """What is transparent laid on white: dropping the transparency would show what it hides."""
    if not image.has_transparency_data:
        return image
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA"))


def decode(
    content: bytes,
    name: str,
    *,
    side: int,
    channels: Literal[1, 3],
    invert: bool = False,
) -> UInt8[np.ndarray, "side side channels"]:
    """Pixels of an image file, resized; grey becomes RGB where colour is asked for, and back.

    Grey of 16 bits is scaled to 8, and what is transparent becomes white.

    Args:
        content: bytes of the file.
        name: name of the file, for messages.
        side: height and width to give the image.
        channels: 3 for RGB, 1 for grey.
        invert: turn dark into light.

    Raises:
        DataError: it is no PNG or JPEG image, is damaged, or has too many pixels.
    """
    with reading(name, "a PNG or JPEG image", content[:512]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > PIXELS:
                raise DataError(
                    f"{name} has {width}x{height} pixels, above {PIXELS}: it may be a "
                    "decompression bomb. Remove it, or make it smaller."
                )
            plain = _on_paper(_in_8_bits(image))
            pixels = np.asarray(plain.convert("L" if channels == 1 else "RGB"), np.uint8)
    pixels = pixels.reshape(height, width, channels)
    return resize(255 - pixels if invert else pixels, side)
