"""HDF5 files as torchmeta writes them: arrays of bytes in groups. No other file is opened."""

from __future__ import annotations

from collections.abc import Iterable
from io import BufferedIOBase
from typing import Any

import numpy as np
from jaxtyping import UInt8

from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError, install_extra


def _h5py(name: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{name} is an HDF5 file, which needs h5py: {install_extra('hdf5')}, or give the files "
            "that it was made from."
        ) from error
    return h5py


def _find(api: Any, root: Any, place: str, name: str) -> Any:
    """An object by its path, down plain links only; None if there is none."""
    found = root
    for part in place.split("/"):
        if not isinstance(found, api.Group):
            return None
        link = found.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, api.HardLink):
            raise DataError(
                f"{name} has a link {place!r} that leads elsewhere: it is refused. Get it from a "
                "source you trust."
            )
        found = found[part]
    return found


def _require_plain(api: Any, array: Any, name: str, shape: tuple[int, ...]) -> None:
    if not isinstance(array, api.Dataset):
        raise DataError(f"{name} is no array, where torchmeta writes one: it is another file.")
    if array.is_virtual or array.external:
        raise DataError(
            f"{name} keeps its values in other files or arrays: it is refused. Write it again in "
            "one piece, or give the files that it was made from."
        )
    if array.dtype != np.uint8 or not array.shape or not array.shape[0] or array.shape[1:] != shape:
        expected = ", ".join(map(str, ("n", *shape)))
        raise DataError(
            f"{name} holds {array.dtype} of shape {array.shape}, where uint8 of shape ({expected}) "
            "was expected: it is another file, or damaged."
        )


def read_hdf5(
    file: BufferedIOBase, name: str, places: Iterable[str], shape: tuple[int, ...]
) -> dict[str, UInt8[np.ndarray, "..."]]:
    """Arrays that a file holds, of those that are asked for.

    Args:
        file: the open file, which is closed.
        name: name of the file, for messages.
        places: paths of the arrays; what else is in the file is not looked at.
        shape: shape of one image; arrays have one dimension more, which is not 0.

    Raises:
        DataError: h5py is not installed; or it is no HDF5 file, is damaged, or keeps one of these
            arrays behind a link, in another file, or in another form than torchmeta's.
    """
    found = {}
    with file:
        head = file.read(512)
        api = _h5py(name)
        with reading(name, "an HDF5 file", head), api.File(file, "r") as root:
            for place in places:
                array = _find(api, root, place, name)
                if array is not None:
                    _require_plain(api, array, f"{name}:{place}", shape)
                    found[place] = np.asarray(array[()])
    return found
