"""Exceptions that parsers of other people's files raise, turned into one refusal."""

from __future__ import annotations

import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from metalearn.errors import DataError

# What zipfile, tarfile, gzip, numpy and Pillow raise for content they can't make sense of. Pillow
# reports a broken PNG as SyntaxError; numpy passes array headers of Python 2 through tokenize; a
# header that asks for absurd sizes ends as MemoryError.
DAMAGE: Final = (
    tarfile.TarError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,
    Warning,
)


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn damage met while reading `name` into a refusal; refusals pass as they are.

    Args:
        name: what is read.
        what: what it should be, with its article.

    Raises:
        DataError: the content is damaged.
    """
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(
            f"{name} can't be read as {what} ({type(error).__name__}: {str(error)[:200]}): "
            "it is truncated or damaged. Get it again."
        ) from error
