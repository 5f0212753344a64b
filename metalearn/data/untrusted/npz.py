"""Numpy's own files, without pickles."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from io import BufferedIOBase
from typing import Final

import numpy as np
from jaxtyping import Shaped

from metalearn.data.untrusted.archives import require_deflate, require_modest
from metalearn.data.untrusted.damage import reading

_ARRAYS: Final = 100


def read_npz(file: BufferedIOBase, name: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an npz file, unpacked to temporary files and mapped.

    Args:
        file: the open file, which is closed.
        name: name of the file, for messages.

    Raises:
        DataError: the file is no npz file, is damaged, needs unpickling, or unpacks to too much.
    """
    head = file.read(512)
    size = file.seek(0, 2)
    arrays = {}
    whole = "an npz file of plain arrays"
    with file, reading(name, whole, head), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        sizes = {info.filename: info.file_size for info in entries}
        require_modest(name, size, sizes, entries=_ARRAYS)
        for info in entries:
            require_deflate(name, info)
            with archive.open(info) as packed, tempfile.NamedTemporaryFile() as unpacked:
                shutil.copyfileobj(packed, unpacked, 2**22)
                unpacked.flush()
                key = info.filename.removesuffix(".npy")
                arrays[key] = np.load(unpacked.name, mmap_mode="r", allow_pickle=False)
    return arrays
