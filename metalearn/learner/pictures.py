"""Pictures in any form that users have them in, to the one form a backbone was trained on.

Shapes: N pictures, C channels, H, W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from metalearn.data.picture_files import read_pictures
from metalearn.data.untrusted.images import decode
from metalearn.errors import LearnerError
from metalearn.runs.card import PictureFormat

Picture: TypeAlias = np.ndarray | Tensor | Image.Image | str | Path
"""One picture: array (H, W) or (H, W, C), tensor (H, W) or (C, H, W), image, or path."""

Pictures: TypeAlias = Picture | Sequence[Picture]
"""One picture or several: also an array (N, H, W) or (N, H, W, C), or a tensor (N, C, H, W).

An array has its channels last. So (3, H, W) are three grey pictures where the run is grey. Where
the run is in colour they might be one colour picture as well, and are refused.
"""

_CHANNELS: Final = (1, 3, 4)
_COLOUR: Final = (3, 4)
_EXPECTED: Final = (
    "an array of shape (N, H, W, C), (H, W, C) or (H, W), a tensor of shape (N, C, H, W), "
    "(C, H, W) or (H, W), a PIL image, a path, or a list of such pictures"
)
_LEVELS: Final = "uint8, bool, or floating point in [0, 1]"
# What a PNG can hold; other modes (CMYK, YCbCr, ...) are turned into RGB as a viewer would.
_PLAIN: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_DEEP: Final = ("I", "F")


def to_batch(images: Pictures, picture: PictureFormat) -> Float[Tensor, "N C H W"]:
    """Pictures as the backbone saw them in training.

    An array or image becomes exactly what the file that holds it would: resized by area averaging,
    grey or colour as in training, what is transparent on white paper, and 256 levels.

    Raises:
        LearnerError: no pictures, values that are none, or an array that may be one picture or
            several.
        DataError: a file can't be read.
    """
    return scaled(to_pixels(images, picture))


def scaled(pixels: UInt8[np.ndarray, "N H W C"]) -> Float[Tensor, "N C H W"]:
    """Stored values as the backbone takes them."""
    plain = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return torch.from_numpy(plain).float().div_(255)


def to_pixels(images: Pictures, picture: PictureFormat) -> UInt8[np.ndarray, "N H W C"]:
    """Pictures as values of 0 to 255; see `to_batch`."""
    items = _items(images, picture)
    if not items:
        raise LearnerError(f"no picture was given (0 of them): give {_EXPECTED}.")
    done: list[Any] = [None] * len(items)
    files = [at for at, item in enumerate(items) if isinstance(item, str | Path)]
    found = read_pictures(
        [Path(items[at]) for at in files],
        side=picture.side,
        channels=picture.channels,
        inverted=picture.inverted,
    )
    if found.refused:
        raise LearnerError(next(iter(found.refused.values())))
    for at, pixels in zip(files, found.pixels, strict=True):
        done[at] = pixels
    for at, item in enumerate(items):
        if done[at] is None:
            done[at] = _plain(item, at, picture)
    return np.stack(done)


def _items(images: Any, picture: PictureFormat) -> list[Any]:
    """One entry for each picture.

    Raises:
        LearnerError: no picture, or an array that may be one picture or several.
    """
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, Tensor):
        if images.ndim == 4:
            return list(images)
        if images.ndim in (2, 3):
            return [images]
        raise _no_picture(images)
    if not isinstance(images, np.ndarray):
        try:
            return list(images)
        except TypeError:
            raise _no_picture(images) from None
    if images.ndim == 1 and images.dtype == object:  # as a table's column of paths
        return list(images)
    if images.ndim == 3 and images.shape[-1] not in _CHANNELS:
        if picture.channels == 3 and len(images) in _COLOUR:
            raise LearnerError(
                f"ndarray of shape {images.shape} was given to a run in colour: one colour picture "
                f"with its channels first, or {len(images)} grey ones? In arrays channels come "
                "last: give array.transpose(1, 2, 0), or torch.from_numpy(array), for the one "
                f"picture, or array[..., None] for the {len(images)}."
            )
        return list(images)
    if images.ndim == 4:
        return list(images)
    if images.ndim in (2, 3):
        return [images]
    raise _no_picture(images)


def _plain(item: Any, at: int, picture: PictureFormat) -> UInt8[np.ndarray, "side side C"]:
    """One picture in memory."""
    name = f"picture {at}"
    if isinstance(item, Image.Image):
        if item.mode in _DEEP:
            raise LearnerError(
                f"{name} is an image of mode {item.mode}, with values of 32 bits, of which none is "
                "known to be white: convert it to 8 or 16 bits."
            )
        return _as_file(ImageOps.exif_transpose(item), name, picture)
    levels = _levels(_values(item), name)
    if levels.ndim == 2:
        levels = levels[..., None]
    if levels.ndim != 3 or levels.shape[2] not in _CHANNELS or 0 in levels.shape:
        raise _no_picture(item)
    if levels.shape == (picture.side, picture.side, picture.channels):
        exact: np.ndarray = 255 - levels if picture.inverted else levels
        return exact
    plain = np.ascontiguousarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    return _as_file(Image.fromarray(plain), name, picture)


def _values(item: Any) -> np.ndarray:
    """Values of an array or tensor, channels last."""
    if isinstance(item, Tensor):
        found = item.detach().cpu()
        found = found.float() if found.is_floating_point() else found
        item = (found.movedim(0, -1) if found.ndim == 3 else found).numpy()
    if not isinstance(item, np.ndarray):
        raise _no_picture(item)
    return item


def _levels(values: np.ndarray, name: str) -> np.ndarray:
    """Values of 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return np.where(values, np.uint8(255), np.uint8(0))
    if values.dtype.kind != "f":
        raise LearnerError(
            f"{name} holds {values.dtype}, where {_LEVELS} was expected: convert it."
        )
    if not np.isfinite(values).all():
        raise LearnerError(f"{name} holds NaN or inf, where {_LEVELS} was expected.")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise LearnerError(
            f"{name} holds values from {values.min():g} to {values.max():g}, where {_LEVELS} was "
            "expected: scale it to [0, 1]; if it was standardised, give it as it was before."
        )
    rounded: np.ndarray = np.round(values.astype(np.float64) * 255).astype(np.uint8)
    return rounded


def _as_file(image: Image.Image, name: str, picture: PictureFormat) -> np.ndarray:
    """The pixels that a file of this image would give."""
    content = io.BytesIO()
    plain = image
    if image.mode not in _PLAIN:
        plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain.save(content, "PNG", compress_level=1)
    return decode(
        content.getvalue(),
        name,
        side=picture.side,
        channels=picture.channels,
        invert=picture.inverted,
    )


def _no_picture(item: Any) -> LearnerError:
    shape = getattr(item, "shape", None)
    kind = type(item).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
    hint = ""
    if isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[0] in _CHANNELS:
        hint = " In arrays channels come last: array.transpose(1, 2, 0)."
    elif isinstance(item, Tensor) and item.ndim in (3, 4) and item.shape[-1] in _CHANNELS:
        hint = " In tensors channels come before pixels: tensor.movedim(-1, -3)."
    return LearnerError(f"{kind} was given for a picture: give {_EXPECTED}.{hint}")
