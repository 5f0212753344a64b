"""Checks of what came out of a file: images, labels, dicts and text."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError


def require_images(value: Any, name: str, side: int) -> UInt8[np.ndarray, "n side side 3"]:
    """The value, when it is an array of colour images as published.

    Raises:
        DataError: the value is anything else.
    """
    given = "nothing" if value is None else type(value).__name__
    if isinstance(value, np.ndarray):
        given = f"{value.dtype} of shape {value.shape}"
        if value.dtype == np.uint8 and value.ndim == 4 and value.shape[1:] == (side, side, 3):
            return value
    raise DataError(
        f"{name} holds {given} for its images, where uint8 of shape (n, {side}, {side}, 3) was "
        "expected: it is another file, or damaged."
    )


def require_labels(value: Any, name: str, count: int) -> Integer[np.ndarray, " count"]:
    """The value as an array, when it is one integer for each image.

    Raises:
        DataError: the value is anything else, or counts disagree.
    """
    if isinstance(value, (list, tuple)) and all(type(label) is int for label in value):
        with reading(name, "a list of labels"):
            value = np.asarray(value, np.int64).reshape(-1)
    if not (isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == 1):
        given = "nothing" if value is None else type(value).__name__
        raise DataError(f"{name} holds {given} for its labels, where integers were expected.")
    if len(value) != count:
        raise DataError(f"{name} has {len(value)} labels for {count} images: get it again.")
    return value.astype(np.int64)


def fields(value: Any, name: str, *needed: str) -> dict[str, Any]:
    """A dict with text keys, whichever Python wrote it; Python 2's keys come as bytes.

    Args:
        value: unpickled object.
        name: name of the file, for messages.
        needed: keys that must be there.

    Raises:
        DataError: the value is no dict, or a key is missing.
    """
    found = {text(key): item for key, item in value.items()} if isinstance(value, dict) else {}
    missing = [key for key in needed if key not in found]
    if missing or not isinstance(value, dict):
        given = f"a dict of {sorted(found)[:8]}" if isinstance(value, dict) else type(value)
        raise DataError(
            f"{name} holds {given}, where a dict with {', '.join(needed)} was expected: it is "
            "another file than its name says."
        )
    return found


def text(value: Any) -> str:
    """Text, whichever Python wrote it, or a number as text.

    Raises:
        DataError: the value is anything else.
    """
    if isinstance(value, (str, bytes, int)):
        return value.decode("latin1") if isinstance(value, bytes) else str(value)
    raise DataError(f"a name came as {type(value).__name__}: the file is damaged. Get it again.")
