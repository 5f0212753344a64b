"""Pickles of plain data and arrays, read by Python's unpickler with a short list of names.

Run it in a child process with limits: the list keeps code out, but not a file that asks for much
memory or time.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict, defaultdict
from io import BufferedIOBase
from typing import Any, Final

import numpy as np

from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError

_PLAIN: Final = re.compile(r"[<>|=]?[biufSU]\d{1,4}")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _Dtype:
    """Stand-in for a plain dtype: numpy's own would take any state from the file, flags too."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not _PLAIN.fullmatch(_text(name)):
            raise DataError(f"has an array of type {_text(name)[:40]!r}, not of plain numbers")
        self.value = np.dtype(_text(name))

    def __setstate__(self, state: Any) -> None:
        self.value = self.value.newbyteorder(_text(state[1]))  # type: ignore[arg-type]


class _Array(np.ndarray):
    """Array whose state is bytes of a plain dtype."""

    def __setstate__(self, state: Any) -> None:
        *_, shape, dtype, fortran, content = state
        if not (isinstance(dtype, _Dtype) and isinstance(content, bytes)):
            raise DataError("has an array of Python objects, not of plain numbers")
        super().__setstate__((1, shape, dtype.value, bool(fortran), content))  # type: ignore[arg-type]


def _reconstruct(*_: Any) -> Any:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, order: Any) -> Any:
    return np.frombuffer(content, dtype.value).reshape(shape, order=_text(order))  # type: ignore[call-overload]


def _scalar(dtype: _Dtype, content: Any) -> Any:
    return np.frombuffer(content, dtype.value)[0].item()


def _encode(text: str, codec: Any) -> bytes:
    if _text(codec) not in ("latin1", "latin-1"):
        raise DataError(f"encodes with {_text(codec)[:40]!r}, not with latin1")
    return text.encode("latin1")


ALLOWED: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): None,  # only named, as the class that `_reconstruct` makes
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("builtins", "xrange"): range,
    **{("builtins", kind.__name__): kind for kind in (list, dict, set, range, bytearray)},
}
_RENAMED: Final = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        key = _RENAMED.get(module, module), name
        if key not in ALLOWED:
            raise DataError(f"asks for '{module[:60]}.{name[:60]}', which data does not need")
        return ALLOWED[key]


def unpickle(file: BufferedIOBase, name: str) -> Any:
    """The value in a pickle: plain data and arrays of numbers. Text that Python 2 wrote is bytes.

    Args:
        file: the open file, which is closed.
        name: name of the file, for messages.

    Raises:
        DataError: the file is no pickle, is damaged, or asks for more than data.
    """
    head = file.read(512)
    file.seek(0)
    with file, reading(name, "a pickle", head):
        try:
            return _Unpickler(file, encoding="bytes").load()
        except DataError as error:
            raise DataError(
                f"{name} is a pickle that {error}: it may be an attack. Only lists, dicts, "
                "numbers, text and numeric arrays are read. Get the file from a source you trust."
            ) from error
