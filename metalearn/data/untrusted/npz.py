"""Numpy's own files, without pickles; and the checks of arrays that came out of any file."""

from __future__ import annotations

import tempfile
import zipfile
from typing import Any, Final

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from metalearn.data.untrusted.archives import FREE, RATIO
from metalearn.data.untrusted.buffers import Readable, as_file
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.sniff import Kind, expect
from metalearn.errors import DataError

_IN_MEMORY: Final = 2**28
_HEADER: Final = 10_000


def _array(file: Readable, size: int, name: str) -> Shaped[np.ndarray, "..."]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} has array format {version}, where 1.0 or 2.0 was expected.")
    header = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        header = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file, max_header_size=_HEADER)
    if dtype.hasobject or dtype.kind not in "biufSU":
        raise DataError(
            f"{name} holds {dtype} values, which need unpickling or are compound: it is refused. "
            "Write it again with plain numbers."
        )
    needed = dtype.itemsize
    for length in shape:
        needed *= int(length)
    if len(shape) > 8 or min(shape, default=0) < 0 or needed > size:
        raise DataError(
            f"{name} announces shape {shape}, {needed} bytes, and has at most {size}: it is "
            "damaged. Get it again."
        )
    order: Any = "F" if fortran else "C"
    if needed <= _IN_MEMORY:
        content = file.read(needed)
        if len(content) != needed:
            raise DataError(f"{name} ends {needed - len(content)} bytes early. Get it again.")
        return np.frombuffer(content, dtype).reshape(shape, order=order)
    with tempfile.TemporaryFile() as unpacked:
        while block := file.read(2**22):
            unpacked.write(block)
        unpacked.flush()
        return np.memmap(unpacked, dtype, "r", 0, shape, order)


def read_npz(content: bytes | memoryview, name: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an npz file; large ones are unpacked to a temporary file and mapped.

    Args:
        content: the file.
        name: for messages.

    Raises:
        DataError: it is no npz file, is damaged, needs unpickling, or unpacks to far too much.
    """
    expect(bytes(content[:512]), name, Kind.ZIP)
    arrays = {}
    with reading(name, "an npz file"), zipfile.ZipFile(as_file(content)) as archive:
        entries = archive.infolist()
        total = sum(info.file_size for info in entries)
        if total > max(FREE, RATIO * len(content)) or len(entries) > 100:
            raise DataError(
                f"{name} has {len(content)} bytes and would unpack to {total} in {len(entries)} "
                "arrays: it may be a decompression bomb. Get it from a source you trust."
            )
        for info in entries:
            key = info.filename.removesuffix(".npy")
            if info.flag_bits & 1 or info.compress_type not in (0, 8):
                raise DataError(f"{name} is compressed by another method than deflate.")
            with archive.open(info) as file:
                arrays[key] = _array(file, info.file_size, f"{name}/{key}")
    return arrays


def require_images(value: Any, name: str, side: int) -> UInt8[np.ndarray, "n side side 3"]:
    """The value, when it is an array of colour images as published.

    Raises:
        DataError: it is anything else.
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
        DataError: it is anything else, or counts disagree.
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
        value: what was unpickled.
        name: for messages.
        needed: keys that must be there.

    Raises:
        DataError: it is no dict, or lacks a key.
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
        DataError: it is anything else.
    """
    if isinstance(value, (str, bytes, int)):
        return value.decode("latin1") if isinstance(value, bytes) else str(value)
    raise DataError(f"a name came as {type(value).__name__}: the file is damaged. Get it again.")
