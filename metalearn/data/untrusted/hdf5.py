"""HDF5 files as torchmeta wrote them: arrays of bytes in groups, each in one piece.

h5py is asked where an array lies, by its name, and the array is then taken out of the file's bytes.
So nothing is unpacked or converted, no other file is opened, and what is read can't be larger than
the file. Names are looked up and never listed: a tree of links of some kB can take centuries to
list, and a look-up only goes down.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from metalearn.data.untrusted.buffers import as_file
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.sniff import Kind, expect
from metalearn.errors import DataError

# Messages in the header of an object, by their numbers in the format: none, attribute, time (old
# and new), continuation; then what a group has and what a plain array has. Anything else is a link
# to another file, a filter, data in another file, or a newer way to keep links, which has filters
# of its own. The header is read here, since h5py lists a group to tell of its header.
_CONTINUATION: Final = 0x10
_ANY: Final = frozenset({0x00, 0x0C, 0x0E, _CONTINUATION, 0x12})
_GROUP: Final = _ANY | {0x11}  # symbol table
_ARRAY: Final = _ANY | {0x01, 0x03, 0x04, 0x05, 0x08}  # space, type, fill (old and new), layout
_SHARED: Final = 2  # flag of a message that is kept elsewhere
_MESSAGES: Final = 1000  # a plain header has 5 or so; continuations may go round in circles
# Version 0, with addresses and sizes of 8 bytes, from the start of the file.
_VERSION: Final = {8: b"\0", 13: b"\x08\x08", 24: bytes(8)}
_ROOT: Final = 64  # where the address of the root's header is


def _h5py(name: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{name} is an HDF5 file, which needs h5py: pip install 'hypergradients[hdf5]', or "
            "give the files that it was made from."
        ) from error
    return h5py


def _messages(content: memoryview, at: int) -> set[int]:
    """The kinds of messages in the header of an object; -1 for what torchmeta never writes."""
    version, size = struct.unpack_from("<B7xI", content, at)
    blocks, kinds = [(at + 16, size)], {0 if version == 1 else -1}
    for _ in range(_MESSAGES):  # how many there are is announced, and HDF5 doesn't go by it
        start, size = blocks.pop()
        if size >= 8:
            kind, length, flags = struct.unpack_from("<HHB", content, start)
            kinds.add(-1 if flags & _SHARED else kind)
            blocks.append((start + 8 + length, size - 8 - length))
            if kind == _CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", content, start + 8))
        if not blocks:
            return kinds
    return {-1}


class _File:
    """An open file, and the groups of it that were met."""

    def __init__(self, api: Any, root: Any, content: memoryview, name: str) -> None:
        self.api, self.content, self.name = api, content, name
        self.groups: dict[str, Any] = {"": root}
        self._plain(int.from_bytes(content[_ROOT : _ROOT + 8], "little"), _GROUP, "the root")

    def _plain(self, address: int, allowed: frozenset[int], what: str) -> None:
        if _messages(self.content, address) - allowed:
            raise DataError(
                f"{self.name} keeps {what} with links, filters or other files, or in a form that "
                "torchmeta does not write: it is refused. Write it again with plain arrays, or "
                "give the files that it was made from."
            )

    def find(self, place: str, kind: type, allowed: frozenset[int]) -> Any:
        """An object by its path, None if there is none."""
        parent, _, last = place.rpartition("/")
        if parent not in self.groups:
            self.groups[parent] = self.find(parent, self.api.h5g.GroupID, _GROUP)
        group, key = self.groups[parent], last.encode()
        if group is None or not group.links.exists(key):
            return None
        link = group.links.get_info(key)
        if link.type != self.api.h5l.TYPE_HARD:
            raise DataError(
                f"{self.name} has a link {place!r} that leads elsewhere: it is refused. Get it "
                "from a source you trust."
            )
        self._plain(link.u, allowed, repr(place))
        found = self.api.h5o.open(group, key)
        if not isinstance(found, kind):
            raise DataError(f"{self.name} has another thing than torchmeta writes as {place!r}.")
        return found


def _taken(
    api: Any, array: Any, name: str, content: bytes | memoryview, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "..."]:
    given = array.shape
    fits = given and given[0] and given[1:] == shape
    if not fits or not array.get_type().equal(api.h5t.STD_U8LE):
        expected = ", ".join(map(str, ("n", *shape)))
        raise DataError(
            f"{name} has shape {given} or is not of bytes, where uint8 of shape ({expected}) was "
            "expected: it is another file, or damaged."
        )
    if array.get_create_plist().get_layout() != api.h5d.CONTIGUOUS:
        raise DataError(
            f"{name} is compressed, in chunks or put together from other arrays, which torchmeta "
            "does not write: it is refused. Write it again in one piece."
        )
    start = array.get_offset()
    if start is None:
        raise DataError(f"{name} was announced and never written: get the file again.")
    # numpy refuses, as HDF5 itself does, what would end after the content
    return np.frombuffer(content, np.uint8, math.prod(given), start).reshape(given)


def read_hdf5(
    content: bytes | memoryview, name: str, places: Iterable[str], shape: tuple[int, ...]
) -> dict[str, UInt8[np.ndarray, "..."]]:
    """Those of some arrays that a file holds, without a copy.

    Args:
        content: the file.
        name: for messages.
        places: paths of the arrays; what else is in the file is not looked at.
        shape: of one image; arrays have one dimension more, which is not 0.

    Raises:
        DataError: h5py is not installed; or it is no HDF5 file, is damaged, or keeps one of these
            arrays, or a group on the way to it, in any other form than torchmeta's.
    """
    expect(bytes(content[:512]), name, Kind.HDF5)
    api = _h5py(name)
    if any(content[at : at + len(value)] != value for at, value in _VERSION.items()):
        raise DataError(
            f"{name} is in another version of HDF5 than torchmeta writes: give the files that it "
            "was made from."
        )
    found = {}
    with reading(name, "an HDF5 file"), api.File(as_file(content), "r") as root:
        file = _File(api, root.id, memoryview(content), name)
        for place in places:
            array = file.find(place, api.h5d.DatasetID, _ARRAY)
            if array is not None:
                found[place] = _taken(api, array, f"{name}:{place}", content, shape)
    return found
