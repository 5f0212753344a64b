"""Exceptions that parsers of other people's files raise, turned into one typed error."""

from __future__ import annotations

import csv
import errno
import json
import pickle
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from typing import Final

from metalearn.errors import DataError

# What pickle, zipfile, tarfile, gzip, numpy, h5py and Pillow raise for content they can't make
# sense of. Pillow reports a broken PNG as SyntaxError; numpy passes array headers of Python 2
# through tokenize.
DAMAGE: Final = (
    pickle.PickleError,
    tarfile.TarError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    csv.Error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    ImportError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    RuntimeError,
    Warning,
)
# A limit of the process or of the disk, not damage of the file.
_LIMITS: Final = (errno.EFBIG, errno.ENOSPC, errno.ENOMEM)

_notes: RawIOBase | None = None


def note_in(file: RawIOBase | None) -> None:
    """Write the name of each file that is read to the start of `file`, for who waits outside."""
    global _notes
    _notes = file


def note(name: str) -> None:
    """Say which file is read from here on."""
    if _notes is not None:
        _notes.seek(0)
        _notes.write(json.dumps(name).encode() + b"\n")


def is_page(head: bytes) -> bool:
    """True if a file that begins with `head` is an HTML page."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def explained(head: bytes) -> str | None:
    """Diagnosis of a file that is no data, with what to do; None where nothing is known.

    Args:
        head: first bytes of the file.
    """
    if not head:
        return "is an empty file: the download or copy broke off. Get it again."
    if is_page(head):
        return (
            "is an HTML page: a download page (virus scan, quota or sign-in) was saved under the "
            "data's name. Open the link in a browser, download the file itself and put it here."
        )
    if head.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer: run `git lfs pull` where it comes from, or get the file itself."
        )
    return None


@contextmanager
def reading(name: str, what: str, head: bytes = b"?") -> Iterator[None]:
    """Turn damage found while reading a file into a typed error; typed errors pass as they are.

    Args:
        name: file that is read.
        what: kind that the file should be, with an article.
        head: first bytes of the file, where they are at hand.

    Raises:
        DataError: the content is damaged.
        MemoryError: there is not enough memory.
        OSError: a file grew beyond a limit, or the disk is full.
    """
    note(name)
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in _LIMITS:
            raise
        said = explained(head)
        raise DataError(
            f"{name} {said}"
            if said
            else f"{name} can't be read as {what} ({type(error).__name__}: {str(error)[:200]}): "
            "it is truncated or damaged. Get it again."
        ) from error
