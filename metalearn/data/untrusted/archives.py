"""Folders, zip and tar archives behind one face: names, and the bytes of each.

Nothing is ever extracted to a path that an archive names. An archive with an absolute path, `..`,
a link or a device, or one that claims to unpack to far more than its size, is refused as a whole.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metalearn.data.untrusted.buffers import as_file, mapped
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.sniff import Kind, expect
from metalearn.errors import DataError

ENTRIES: Final = 3_000_000
MEMBER: Final = 2**31  # bytes of one file inside a zip archive
TOTAL: Final = 2**36  # bytes of all files inside an archive
RATIO: Final = 100  # images and pickles of images shrink 2 to 4 times
FREE: Final = 2**26  # what even the smallest archive may unpack to
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Tree:
    """Files of a folder or an archive, by relative path with forward slashes, sorted.

    Attributes:
        name: of the folder or archive, for messages.
        path: of the folder or archive.
        sizes: bytes of each file.
        fetch: the content of one file; for a folder a map of it.
        archive: whether it is one file, whose checksum says all.
    """

    name: str
    path: Path
    sizes: dict[str, int]
    fetch: Callable[[str], bytes | memoryview]
    archive: bool

    def read(self, name: str) -> bytes | memoryview:
        """The content of one file.

        Raises:
            DataError: it is damaged, or too large to be read out of an archive.
        """
        with reading(f"{self.name}/{name}", "a file"):
            return self.fetch(name)

    def find(self, *bases: str) -> str | None:
        """The one file with any of these names, in whatever folder; None if there is none.

        Raises:
            DataError: there are several.
        """
        found = [name for name in self.sizes if name.rpartition("/")[2] in bases]
        if len(found) > 1:
            raise DataError(
                f"{self.name} holds several files for one: {', '.join(found[:4])}. "
                "Give the folder with the one to read."
            )
        return found[0] if found else None


def _safe(name: str, archive: str) -> str:
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":"
    if name.startswith(("/", "\\")) or drive or ".." in parts or "\0" in name:
        raise DataError(
            f"{archive} has an entry {name[:100]!r} that would leave its folder: it is refused as "
            "a whole. Get it from a source you trust."
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _bound(archive: str, size: int, sizes: dict[str, int]) -> None:
    limit = min(TOTAL, max(FREE, RATIO * size))
    total = sum(sizes.values())
    if total > limit or len(sizes) > ENTRIES:
        raise DataError(
            f"{archive} has {size} bytes and would unpack to {total} in {len(sizes)} files, where "
            f"{limit} bytes are the most for data: it may be a decompression bomb. Get it from a "
            "source you trust, or unpack it yourself and give the folder."
        )


def _whole(name: str, found: int, size: int) -> None:
    if found != size:
        raise DataError(
            f"{name} has {found} bytes where {size} are announced: the archive is truncated. Get "
            "it again."
        )


def _zip(path: Path, name: str) -> Tree:
    archive = zipfile.ZipFile(path)
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        entry = _safe(info.orig_filename, name)
        if info.create_system == 3 and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(
                f"{name} has a link or device {entry[:100]!r}: it is refused as a whole. "
                "Get it from a source you trust."
            )
        if info.is_dir() or _hidden(entry):
            continue
        if info.flag_bits & 1 or info.compress_type not in (0, 8):
            raise DataError(
                f"{name} has an entry {entry[:100]!r} that is encrypted or compressed by "
                "another method than deflate: unpack it yourself and give the folder."
            )
        entries[entry] = info
    sizes = {entry: entries[entry].file_size for entry in sorted(entries)}
    _bound(name, path.stat().st_size, sizes)

    def fetch(entry: str) -> bytes:
        if sizes[entry] > MEMBER:
            raise DataError(
                f"{name}/{entry} has {sizes[entry]} bytes, too many to read out of a zip archive: "
                "unpack the archive and give the folder."
            )
        with archive.open(entries[entry]) as file:
            content = file.read()
        _whole(f"{name}/{entry}", len(content), sizes[entry])
        return content

    return Tree(name, path, sizes, fetch, True)


def _gunzip(path: Path, name: str) -> bytes | memoryview:
    """A map of an unnamed file with the content: tar members are then read in any order."""
    limit = min(TOTAL, max(FREE, RATIO * path.stat().st_size))
    with tempfile.TemporaryFile() as unpacked, gzip.open(path) as file:
        while block := file.read(2**20):
            if unpacked.tell() + len(block) > limit:
                raise DataError(
                    f"{name} unpacks to more than {limit} bytes: it may be a decompression bomb. "
                    "Get it from a source you trust."
                )
            unpacked.write(block)
        unpacked.flush()
        return mapped(unpacked)


def _tar(path: Path, name: str, compressed: bool) -> Tree:
    content = memoryview(_gunzip(path, name) if compressed else _map(path))
    if compressed:
        expect(bytes(content[:512]), f"the content of {name}", Kind.TAR)
    places: dict[str, tuple[int, int]] = {}
    archive = tarfile.TarFile(fileobj=as_file(content))
    while (info := archive.next()) is not None and len(places) <= ENTRIES:
        entry = _safe(info.name, name)
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise DataError(
                f"{name} has a link or device {entry[:100]!r}: it is refused as a whole. "
                "Get it from a source you trust."
            )
        if info.isreg() and not _hidden(entry):
            places[entry] = info.offset_data, info.size
    sizes = {entry: places[entry][1] for entry in sorted(places)}
    _bound(name, len(content), sizes)

    def fetch(entry: str) -> memoryview:
        start, size = places[entry]
        part = content[start : start + size]
        _whole(f"{name}/{entry}", len(part), size)
        return part

    return Tree(name, path, sizes, fetch, True)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            name = f"{prefix}{entry.name}"
            if entry.is_dir() and depth < _DEPTH:
                yield from _walk(Path(entry.path), f"{name}/", depth + 1)
            elif entry.is_file():
                yield name, entry.stat().st_size


def _map(path: Path) -> bytes | memoryview:
    with path.open("rb") as file:
        return mapped(file)


def _folder(path: Path, name: str) -> Tree:
    sizes = dict(sorted(_walk(path, "", 0)))
    if len(sizes) > ENTRIES:
        raise DataError(f"{path} holds {len(sizes)} files: give the folder of one data set.")
    return Tree(name, path, sizes, lambda entry: _map(path / entry), False)


def open_tree(path: Path) -> Tree:
    """The files in a folder, a zip archive, or a tar archive, plain or gzip-compressed.

    Args:
        path: of the folder or archive.

    Raises:
        DataError: it is none of these, can't be read, is damaged or unsafe.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: give the folder or archive that holds the data.")
    name = path.name or str(path)
    with reading(str(path), "a folder or archive"):
        if path.is_dir():
            return _folder(path, name)
        with path.open("rb") as file:
            head = file.read(512)
        kind = expect(head, name, Kind.ZIP, Kind.GZIP, Kind.TAR, Kind.PICKLE, Kind.HDF5)
        if kind in (Kind.PICKLE, Kind.HDF5):
            raise DataError(f"{name} is one file of a data set: give the folder that holds it.")
        if head.startswith(b"PK"):
            return _zip(path, name)
        return _tar(path, name, head.startswith(b"\x1f\x8b"))
