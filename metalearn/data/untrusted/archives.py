"""Folders, zip and tar archives behind one face: names, and the bytes of each.

Nothing is extracted to a path that an archive names. An archive with an absolute path, `..`, a link
or a device, or one that claims to unpack to far more than its size, is refused as a whole.
"""

from __future__ import annotations

import gzip
import io
import mmap
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Final, cast

from metalearn.data.untrusted.damage import explained, reading
from metalearn.errors import DataError

ENTRIES: Final = 3_000_000
TOTAL: Final = 2**36  # bytes of all files inside an archive
RATIO: Final = 100  # images and pickles of images shrink 2 to 4 times
FREE: Final = 2**26  # what even the smallest archive may unpack to
HIDDEN: Final = "hidden"
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Tree:
    """Files of a folder or an archive, by relative path with forward slashes, sorted.

    Attributes:
        name: name of the folder or archive, for messages.
        path: path of the folder or archive.
        sizes: bytes of each file.
        open: opens one file, from which can be read at any place.
        archive: True where the tree is one file, whose checksum says all.
        skipped: all else that is there, by path, each with the reason why it is no file to read.
    """

    name: str
    path: Path
    sizes: dict[str, int]
    open: Callable[[str], BufferedIOBase]
    archive: bool
    skipped: dict[str, str]

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            DataError: the file is damaged.
        """
        label = f"{self.name}/{name}"
        with reading(label, "a file"), self.open(name) as file:
            content = file.read()
            if len(content) != self.sizes[name]:
                raise DataError(
                    f"{label} has {len(content)} bytes where {self.sizes[name]} are announced: the "
                    "archive is truncated. Get it again."
                )
            return content

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


def allowed_bytes(size: int) -> int:
    """Number of bytes that an archive of `size` bytes may unpack to."""
    return min(TOTAL, max(FREE, RATIO * size))


def require_modest(name: str, size: int, sizes: dict[str, int], *, entries: int = ENTRIES) -> None:
    """Raise if an archive unpacks to far more than data does.

    Args:
        name: name of the archive.
        size: bytes of the archive.
        sizes: bytes that each of its files unpacks to.
        entries: number of files that the archive may hold.

    Raises:
        DataError: the archive has too many files, or unpacks to too many bytes.
    """
    total = sum(sizes.values())
    if total > allowed_bytes(size) or len(sizes) > entries:
        raise DataError(
            f"{name} has {size} bytes and would unpack to {total} in {len(sizes)} files, where "
            f"{allowed_bytes(size)} bytes in {entries} files are the most for data: it may be a "
            "decompression bomb. Get it from a source you trust, or unpack it yourself and give "
            "the folder."
        )


def require_deflate(name: str, info: zipfile.ZipInfo) -> None:
    """Raise if an entry of a zip archive is encrypted or compressed in an unusual way.

    Raises:
        DataError: the entry is.
    """
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{name} has an entry {info.filename[:100]!r} that is encrypted or compressed by "
            "another method than deflate: unpack it yourself and give the folder."
        )


def _no_link(name: str, entry: str, plain: bool) -> None:
    if not plain:
        raise DataError(
            f"{name} has a link or device {entry[:100]!r}: it is refused as a whole. "
            "Get it from a source you trust."
        )


def _zip(path: Path, name: str) -> Tree:
    archive = zipfile.ZipFile(path)
    entries: dict[str, zipfile.ZipInfo] = {}
    skipped: dict[str, str] = {}
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        entry = _safe(info.orig_filename, name)
        plain = info.create_system != 3 or kind in (0, stat.S_IFREG, stat.S_IFDIR)
        _no_link(name, entry, plain)
        if _hidden(entry):
            skipped[entry] = HIDDEN
        elif not info.is_dir():
            require_deflate(name, info)
            entries[entry] = info
    sizes = {entry: entries[entry].file_size for entry in sorted(entries)}
    require_modest(name, path.stat().st_size, sizes)
    # An entry read as a whole is checked against its CRC, and can be read at any place at no cost.

    def content(entry: str) -> BufferedIOBase:
        return io.BytesIO(archive.read(entries[entry]))

    return Tree(name, path, sizes, content, True, skipped)


class _Map(mmap.mmap):
    """A map that can be read as a file, as Python's own can from 3.13 on."""

    def seekable(self) -> bool:
        return True


def _map(file: IO[bytes]) -> _Map:
    return _Map(file.fileno(), 0, access=mmap.ACCESS_READ)


def _gunzip(path: Path, name: str) -> _Map:
    """A map of an unnamed file with the content: tar members are then read in any order."""
    limit = allowed_bytes(path.stat().st_size)
    with tempfile.TemporaryFile() as unpacked, gzip.open(path) as file:
        while block := file.read(2**20):
            if unpacked.tell() + len(block) > limit:
                raise DataError(
                    f"{name} unpacks to more than {limit} bytes: it may be a decompression bomb. "
                    "Get it from a source you trust."
                )
            unpacked.write(block)
        unpacked.flush()
        return _map(unpacked)


def _tar(path: Path, name: str, compressed: bool) -> Tree:
    if compressed:
        content = _gunzip(path, name)
    else:
        with path.open("rb") as file:
            content = _map(file)
    archive = tarfile.TarFile(fileobj=content)
    members: dict[str, tarfile.TarInfo] = {}
    skipped: dict[str, str] = {}
    while (info := archive.next()) is not None and len(members) <= ENTRIES:
        entry = _safe(info.name, name)
        _no_link(name, entry, (info.isreg() or info.isdir()) and not info.issparse())
        if _hidden(entry):
            skipped[entry] = HIDDEN
        elif info.isreg():
            members[entry] = info
    sizes = {entry: members[entry].size for entry in sorted(members)}
    require_modest(name, len(content), sizes)

    def member(entry: str) -> BufferedIOBase:
        return cast(BufferedIOBase, archive.extractfile(members[entry]))

    return Tree(name, path, sizes, member, True, skipped)


class _Walk:
    """The files below a folder, links followed.

    Attributes:
        sizes: bytes of each file, by path.
        skipped: entries that are no files, by path, with the reason.
    """

    def __init__(self, path: Path) -> None:
        self.sizes: dict[str, int] = {}
        self.skipped: dict[str, str] = {}
        self._met = 0
        self._enter(path, "", ())

    def _enter(self, folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        status = folder.stat()
        above = (*above, (status.st_dev, status.st_ino))
        before = self._met
        with os.scandir(folder) as entries:
            for entry in entries:
                self._met += 1
                if self._met > ENTRIES:  # links to neighbours could make it endless
                    raise DataError(
                        f"{folder} and the folders above it hold more than {ENTRIES} files, or "
                        "links that lead in circles: give the folder of one data set."
                    )
                self._look(entry, f"{prefix}{entry.name}", above)
        if prefix and self._met == before:
            self.skipped[prefix] = "an empty folder"

    def _look(self, entry: os.DirEntry[str], name: str, above: tuple[tuple[int, int], ...]) -> None:
        if _hidden(entry.name):
            self.skipped[name] = HIDDEN
        elif entry.is_dir():
            status = os.stat(entry.path)
            if (status.st_dev, status.st_ino) in above:
                self.skipped[name] = "a link to a folder that it lies in"
            elif len(above) > _DEPTH:
                self.skipped[name] = f"a folder more than {_DEPTH} folders deep"
            else:
                self._enter(Path(entry.path), f"{name}/", above)
        elif entry.is_file():
            self.sizes[name] = entry.stat().st_size
        else:
            self.skipped[name] = "a broken link" if entry.is_symlink() else "no ordinary file"


def _folder(path: Path, name: str) -> Tree:
    walk = _Walk(path)
    sizes = dict(sorted(walk.sizes.items()))
    return Tree(name, path, sizes, lambda entry: (path / entry).open("rb"), False, walk.skipped)


def total_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder.

    Raises:
        DataError: the path does not exist or can't be read.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: give the folder or archive that holds the data.")
    with reading(str(path), "a folder or archive"):
        return sum(_Walk(path).sizes.values()) if path.is_dir() else path.stat().st_size


def open_tree(path: Path) -> Tree:
    """The files in a folder, a zip archive, or a tar archive, plain or gzip-compressed.

    Args:
        path: path of the folder or archive.

    Raises:
        DataError: the path is none of these, can't be read, is damaged or unsafe.
    """
    name = path.name or str(path)
    with reading(str(path), "a folder or archive"):
        if path.is_dir():
            return _folder(path, name)
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"PK"):
            return _zip(path, name)
        compressed = head.startswith(b"\x1f\x8b")
        if compressed or head[257:262] == b"ustar":
            return _tar(path, name, compressed)
    said = explained(head) or (
        "is no zip, tar or gzip archive: give the archive, or the folder that holds the file."
    )
    raise DataError(f"{name} {said}")
