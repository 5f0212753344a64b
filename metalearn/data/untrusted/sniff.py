"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from metalearn.errors import DataError

HEAD = 512


class Kind(Enum):
    """What the first bytes of a file say it is."""

    EMPTY = "an empty file"
    HTML = "an HTML page"
    POINTER = "a Git LFS pointer"
    ZIP = "a zip archive"
    GZIP = "gzip-compressed"
    TAR = "a tar archive"
    PICKLE = "a pickle"
    HDF5 = "an HDF5 file"
    PNG = "a PNG image"
    JPEG = "a JPEG image"
    UNKNOWN = "of no kind known here"


_STARTS = (
    (b"PK\x03\x04", Kind.ZIP),
    (b"PK\x05\x06", Kind.ZIP),
    (b"\x1f\x8b", Kind.GZIP),
    (b"\x80", Kind.PICKLE),
    (b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (b"\x89PNG\r\n\x1a\n", Kind.PNG),
    (b"\xff\xd8\xff", Kind.JPEG),
    (b"version https://git-lfs", Kind.POINTER),
    # A dict or list under protocols 0 and 1, which have no header.
    (b"(dp", Kind.PICKLE),
    (b"(lp", Kind.PICKLE),
    (b"}q", Kind.PICKLE),
    (b"]q", Kind.PICKLE),
)

_REMEDY = {
    Kind.EMPTY: "the download or copy broke off: get it again.",
    Kind.HTML: (
        "a download page (virus scan, quota or sign-in) was saved under the data's name: open the "
        "link in a browser, download the file itself and put it here."
    ),
    Kind.POINTER: "run `git lfs pull` where it comes from, or get the file itself.",
}


def kind_of(head: bytes) -> Kind:
    """The kind of file that begins with `head` (512 bytes are enough)."""
    if not head:
        return Kind.EMPTY
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return Kind.TAR
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return Kind.HTML
    return Kind.UNKNOWN


def expect(head: bytes, name: str, *wanted: Kind) -> Kind:
    """Refuse content of any but the wanted kinds, and say what it is instead.

    Args:
        head: its first bytes.
        name: what to call it in the message.
        wanted: the kinds that will do.

    Raises:
        DataError: it is of another kind.
    """
    kind = kind_of(head)
    if kind in wanted:
        return kind
    remedy = _REMEDY.get(kind, "check that it is the file its name says, and get it again.")
    expected = " or ".join(w.value for w in wanted)
    raise DataError(f"{name} is {kind.value}, where {expected} was expected: {remedy}")


def sniff(path: Path) -> Kind:
    """The kind of a file.

    Raises:
        DataError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD))
    except OSError as error:
        raise DataError(f"{path} can't be read ({error}): give a readable file.") from error
