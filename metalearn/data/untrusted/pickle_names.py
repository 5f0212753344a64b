"""The only names a pickle may call, each as a function of ours that can do nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Shaped

from metalearn.errors import DataError

Raw = (bytes, bytearray, memoryview)
_Order = Literal["<", ">", "|", "="]
_ORDERS: Final[dict[str | bytes, _Order]] = {
    "<": "<",
    ">": ">",
    "|": "|",
    "=": "=",
    b"<": "<",
    b">": ">",
    b"|": "|",
    b"=": "=",
}
_KEYS: Final = (str, bytes, int, float, bool, type(None))
_DTYPE: Final = re.compile(r"([<>|=]?)([biufSUO])(\d{1,4})")


@dataclass(slots=True)
class Budget:
    """How much a pickle may still build; files that hold data stay far below.

    Attributes:
        containers: lists, tuples, dicts and sets.
        copied: elements and bytes that are copied from one object to another.
    """

    containers: int
    copied: int

    def container(self, weight: int = 1) -> None:
        """Count one container.

        Raises:
            DataError: there are too many.
        """
        self.containers -= weight
        if self.containers < 0:
            raise DataError("it builds more lists, tuples or dicts than a data file needs")

    def copy(self, count: int) -> None:
        """Count elements that are copied.

        Raises:
            DataError: there are too many.
        """
        self.copied -= count
        if self.copied < 0:
            raise DataError("it copies more than a data file needs")


@dataclass(slots=True)
class Pending:
    """An array or dtype whose content comes with a later BUILD.

    Attributes:
        what: array or dtype.
        value: the array or dtype, once known.
    """

    what: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Callee:
    """What stands for an allowed name on the machine's stack.

    Attributes:
        name: what it stands for.
        call: makes its value from a tuple of arguments.
    """

    name: str
    call: Callable[[tuple[Any, ...], Budget], Any] = field(repr=False)


def key(value: Any) -> Any:
    """A key of a dict or set: plain values only (a tuple's hash would recurse as deep as it nests).

    Integers hash to themselves modulo 2^61 - 1, so longer ones could be chosen to collide all, and
    a dict of them would cost the square of their number.

    Raises:
        DataError: it is anything else.
    """
    if type(value) not in _KEYS:
        raise DataError(f"it uses a {type(value).__name__} as a key")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise DataError("it uses an integer of more than 64 bits as a key")
    return value


def make_dtype(text: Any) -> np.dtype[Any]:
    """The dtype of a plain number or text.

    Raises:
        DataError: Python objects, or anything compound.
    """
    name = text.decode("latin1") if isinstance(text, bytes) else text
    found = _DTYPE.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise DataError(f"it has an array of type {str(name)[:40]!r}, where plain numbers belong")
    if found[2] == "O":
        raise DataError("it has an array of Python objects, where plain numbers belong")
    return np.dtype(name)


def make_array(raw: Any, dtype: Any, shape: Any, fortran: bool) -> Shaped[np.ndarray, "..."]:
    """An array over `raw`, without a copy.

    Raises:
        DataError: the parts don't fit together.
    """
    if isinstance(dtype, Pending):
        dtype = dtype.value
    if isinstance(raw, list):
        raise DataError("it has an array of Python objects, where plain numbers belong")
    if not (isinstance(raw, Raw) and isinstance(dtype, np.dtype) and dtype.itemsize > 0):
        raise DataError("it has an array without bytes or without a type")
    shape = (shape,) if isinstance(shape, int) else shape
    if not (isinstance(shape, tuple) and len(shape) <= 8):
        raise DataError("it has an array whose shape is no short tuple")
    total = dtype.itemsize
    for side in shape:
        if type(side) is not int or not 0 <= side < 2**40:
            raise DataError(f"it has an array whose shape holds {str(side)[:40]}")
        total *= side
    if total != len(raw):
        raise DataError(f"it has an array of shape {shape} in {len(raw)} bytes: {total} are needed")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


def build(target: Pending, state: Any) -> None:
    """Give a pending array or dtype its content.

    Raises:
        DataError: the state isn't one that numpy writes.
    """
    if not isinstance(state, tuple):
        raise DataError(f"it gives the state of a {target.what} as {type(state).__name__}")
    if target.what == "array":
        if len(state) not in (4, 5):
            raise DataError(f"it gives the state of an array in {len(state)} parts")
        shape, dtype, fortran, raw = state[-4:]
        target.value = make_array(raw, dtype, shape, bool(fortran))
        return
    if len(state) < 8 or any(part is not None for part in state[2:5]):
        raise DataError("it has an array of compound type, where plain numbers belong")
    order = _ORDERS.get(state[1]) if isinstance(state[1], (str, bytes)) else None
    if order is None:
        raise DataError(f"it gives the byte order as {str(state[1])[:40]!r}")
    if not isinstance(target.value, np.dtype):
        raise DataError("it gives the state of a dtype that has none")
    target.value = target.value.newbyteorder(order)


def _reconstruct(arguments: tuple[Any, ...], budget: Budget) -> Pending:
    kind = arguments[0] if arguments else None
    if not (isinstance(kind, Callee) and kind.name == "ndarray"):
        raise DataError("it reconstructs something other than a plain array")
    return Pending("array")


def _dtype(arguments: tuple[Any, ...], budget: Budget) -> Pending:
    return Pending("dtype", make_dtype(arguments[0] if arguments else None))


def _frombuffer(arguments: tuple[Any, ...], budget: Budget) -> Any:
    raw, dtype, shape, order = arguments
    return make_array(raw, dtype, shape, order in ("F", b"F"))


def _scalar(arguments: tuple[Any, ...], budget: Budget) -> Any:
    dtype, raw = arguments
    return make_array(raw, dtype, (), False).item()


def _encode(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    text, codec = arguments
    codec = codec.decode("latin1") if isinstance(codec, bytes) else codec
    if codec not in ("latin1", "latin-1") or not isinstance(text, str):
        raise DataError(f"it encodes with {str(codec)[:40]!r}, where only latin1 is allowed")
    budget.copy(len(text))
    return text.encode("latin1")


def _items(arguments: tuple[Any, ...], budget: Budget, name: str) -> Any:
    if len(arguments) > 1:
        raise DataError(f"it calls {name} with {len(arguments)} arguments")
    if not arguments:
        return ()
    given = arguments[0]
    if not isinstance(given, (list, tuple, range, dict, set)):
        raise DataError(f"it calls {name} with a {type(given).__name__}")
    budget.copy(len(given))
    return given


def _list(arguments: tuple[Any, ...], budget: Budget) -> list[Any]:
    budget.container()
    return list(_items(arguments, budget, "list"))


def _set(arguments: tuple[Any, ...], budget: Budget) -> set[Any]:
    budget.container(4)
    return {key(item) for item in _items(arguments, budget, "set")}


def _dict(arguments: tuple[Any, ...], budget: Budget) -> dict[Any, Any]:
    budget.container()
    given = _items(arguments, budget, "dict")
    return {key(k): v for k, v in (given.items() if isinstance(given, dict) else given)}


def _defaultdict(arguments: tuple[Any, ...], budget: Budget) -> dict[Any, Any]:
    return _dict(arguments[1:], budget)


def _range(arguments: tuple[Any, ...], budget: Budget) -> range:
    if not all(type(argument) is int for argument in arguments):
        raise DataError("it calls range with something other than integers")
    return range(*arguments)


def _bytearray(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    if len(arguments) == 2:
        return _encode(arguments, budget)
    if not arguments:
        return b""
    if len(arguments) > 1 or not isinstance(arguments[0], Raw):
        raise DataError("it calls bytearray with something other than bytes")
    budget.copy(len(arguments[0]))
    return bytes(arguments[0])


def _never(arguments: tuple[Any, ...], budget: Budget) -> Any:
    raise DataError("it calls numpy.ndarray by itself, where only _reconstruct does")


def _table() -> dict[tuple[str, str], Callee]:
    rows: list[tuple[tuple[str, ...], str, Callable[[tuple[Any, ...], Budget], Any]]] = [
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct", _reconstruct),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar", _scalar),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", _frombuffer),
        (("numpy",), "ndarray", _never),
        (("numpy",), "dtype", _dtype),
        (("_codecs",), "encode", _encode),
        (("collections",), "OrderedDict", _dict),
        (("collections",), "defaultdict", _defaultdict),
    ]
    builtin = (("list", _list), ("dict", _dict), ("set", _set), ("bytearray", _bytearray))
    rows += [(("__builtin__", "builtins"), name, call) for name, call in builtin]
    rows += [(("__builtin__", "builtins"), name, _range) for name in ("range", "xrange")]
    return {
        (module, name): Callee(name, call) for modules, name, call in rows for module in modules
    }


ALLOWED: Final = _table()
