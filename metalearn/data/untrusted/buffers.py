"""Bytes of a file without copies: a map of it, a cursor over it, a file object over it."""

from __future__ import annotations

import io
import mmap
import os
from typing import IO, Any, Protocol, runtime_checkable

from metalearn.errors import DataError

_SMALL = 2**16


@runtime_checkable
class Readable(Protocol):
    """Anything with bytes to read, one after the other."""

    def read(self, count: int = -1, /) -> bytes:
        """The next bytes, all of them by default."""
        ...


def mapped(file: IO[bytes]) -> bytes | memoryview:
    """The content of an open file: a map of it, or a copy of a small one.

    Raises:
        OSError: it can't be read.
    """
    file.seek(0)
    if os.fstat(file.fileno()).st_size < _SMALL:
        return file.read()
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Cursor:
    """Reads the parts of a buffer in turn and says when it ends too early."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> memoryview:
        """The next bytes.

        Raises:
            DataError: there are fewer.
        """
        end = self.at + count
        if end > len(self.data):
            raise DataError(f"it ends in the middle of {count} bytes: it is truncated")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, size: int, signed: bool = False) -> int:
        """The next bytes as a little-endian integer.

        Raises:
            DataError: there are fewer.
        """
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """The bytes up to the next line feed, which is passed over.

        Raises:
            DataError: there is none.
        """
        width = 256  # lines are short but for the text of an array: look near first
        while True:
            window = bytes(self.data[self.at : self.at + width])
            end = window.find(b"\n")
            if end >= 0:
                self.at += end + 1
                return window[:end]
            if self.at + width >= len(self.data):
                raise DataError("it ends in the middle of a line: it is truncated")
            width *= 8


class _View(io.RawIOBase):
    """A file over a buffer."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._at, len(self._content))[whence]
        if start + offset < 0:
            raise ValueError("before the start of the file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def as_file(content: bytes | memoryview) -> io.BufferedReader:
    """A file object that reads from a buffer."""
    return io.BufferedReader(_View(memoryview(content)))
