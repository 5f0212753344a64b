"""Reads the data in a pickle without Python's unpickler.

A pickle is a program for a stack machine. This one runs the opcodes that build plain data and
numpy arrays, calls nothing but the functions of `allowed`, and refuses every other opcode and name.
Nothing here imports by a name in the file, so there is nothing to escape to. What is allocated is
bounded by the length of the file (`Budget`); large byte strings and arrays are views of it.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable
from typing import Any, Final

from metalearn.data.untrusted.buffers import Cursor
from metalearn.data.untrusted.damage import DAMAGE
from metalearn.data.untrusted.pickle_names import ALLOWED, Budget, Callee, Pending, build, key
from metalearn.data.untrusted.sniff import Kind, expect
from metalearn.errors import DataError

_COPY_BELOW: Final = 2**16
# The largest file, tieredImageNet's list of 448,695 arrays, builds 8 containers an array, in 40
# bytes or more; numbers and text come in longer lists.
_CONTAINERS: Final = 2**23
_BYTES_A_CONTAINER: Final = 4
_LONGEST_NUMBER: Final = 64


class _Stopped(Exception):
    """The STOP opcode: the value is complete."""


class _Machine(Cursor):
    """The stack machine; one method for each way of reading an argument or building a value."""

    def __init__(self, data: memoryview) -> None:
        super().__init__(data)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        containers = min(len(data) // _BYTES_A_CONTAINER + 1024, _CONTAINERS)
        self.budget = Budget(containers, 4 * len(data) + 4096)

    def run(self) -> Any:
        step, data = _STEPS, self.data
        try:
            while True:
                opcode = data[self.at]
                self.at += 1
                action = step.get(opcode)
                if action is None:
                    raise DataError(f"it uses opcode {_NAMES.get(opcode, hex(opcode))}")
                action(self)
        except _Stopped:
            return _done(self.stack.pop())

    # Arguments.
    def raw(self, size: int) -> None:
        part = self.take(self.number(size))
        # Views keep the file's buffer alive; that pays for large ones only.
        self.stack.append(bytes(part) if len(part) < _COPY_BELOW else part)

    def text(self, size: int) -> None:
        self.stack.append(str(self.take(self.number(size)), "utf-8", "surrogatepass"))

    def long(self, size: int) -> None:
        count = self.number(size)
        if count > _LONGEST_NUMBER:
            raise DataError(f"it has an integer of {count} bytes")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def decimal(self) -> None:
        line = self.line()
        if len(line) > _LONGEST_NUMBER:
            raise DataError(f"it has an integer of {len(line)} digits")
        if line in (b"00", b"01"):
            self.stack.append(line == b"01")
        else:
            self.stack.append(int(line.removesuffix(b"L")))

    def quoted(self) -> None:
        line = self.line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise DataError("it has a string without quotes")
        self.stack.append(codecs.escape_decode(line[1:-1])[0])

    # Structure.
    def mark(self) -> None:
        self.budget.container()
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def container(self, value: Any, weight: int = 1) -> None:
        self.budget.container(weight)
        self.stack.append(value)

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise DataError("it takes more values than there are")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.container(items)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise DataError(f"it appends to a {type(target).__name__}")
        target.extend(_done(item) for item in items)

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise DataError(f"it adds to a {type(target).__name__}")
        target.update(key(item) for item in items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise DataError(f"it sets items of a {type(target).__name__}")
        for name, value in zip(items[::2], items[1::2], strict=True):
            target[key(name)] = _done(value)

    def last(self, count: int) -> list[Any]:
        if len(self.stack) <= count:
            raise DataError("it takes more values than there are")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def new_dict(self) -> None:
        items = self.since_mark()
        self.container({})
        self.set_items(items)

    def put(self, index: int) -> None:
        if len(self.memo) >= _CONTAINERS:
            raise DataError("it remembers more values than a data file needs")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(_done(self.memo[index]))

    def index(self) -> int:
        line = self.line()
        if len(line) > 20:
            raise DataError("it has a memo index of more than 20 digits")
        return int(line)

    # Names and calls.
    def name(self, module: Any, name: Any) -> None:
        found = ALLOWED.get((module, name)) if isinstance(name, str) else None
        if found is None:
            given = f"{str(module)[:60]}.{str(name)[:60]}"
            raise DataError(f"it asks for {given!r}, which data does not need: it may be an attack")
        self.stack.append(found)

    def global_name(self) -> None:
        module, name = self.line(), self.line()
        self.name(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"))

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str):
            raise DataError("it asks for a name that is no text")
        self.name(module, name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not (isinstance(function, Callee) and isinstance(arguments, tuple)):
            raise DataError(f"it calls a {type(function).__name__}")
        self.stack.append(function.call(tuple(_done(a) for a in arguments), self.budget))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Pending):
            state = tuple(_done(s) for s in state) if isinstance(state, tuple) else state
            build(target, state)
            self.stack[-1] = target if target.what == "dtype" else target.value
        elif not (isinstance(target, dict) and not state):
            raise DataError(f"it sets the state of a {type(target).__name__}")

    def stop(self) -> None:
        raise _Stopped

    def protocol(self) -> None:
        if self.number(1) > 5:
            raise DataError("it has a protocol above 5, which no Python writes")


def _done(value: Any) -> Any:
    """The array or dtype that was pending when it was remembered."""
    if isinstance(value, Pending) and value.value is not None and value.what == "array":
        return value.value
    return value


_Step = Callable[[_Machine], Any]
_BY_NAME: Final[dict[str, _Step]] = {
    "PROTO": _Machine.protocol,
    "FRAME": lambda m: m.take(8),
    "STOP": _Machine.stop,
    "NONE": lambda m: m.stack.append(None),
    "NEWTRUE": lambda m: m.stack.append(True),
    "NEWFALSE": lambda m: m.stack.append(False),
    "INT": _Machine.decimal,
    "LONG": _Machine.decimal,
    "BININT": lambda m: m.stack.append(m.number(4, True)),
    "BININT1": lambda m: m.stack.append(m.number(1)),
    "BININT2": lambda m: m.stack.append(m.number(2)),
    "LONG1": lambda m: m.long(1),
    "LONG4": lambda m: m.long(4),
    "FLOAT": lambda m: m.stack.append(float(m.line()[:64])),
    "BINFLOAT": lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    "STRING": _Machine.quoted,
    "BINSTRING": lambda m: m.raw(4),
    "SHORT_BINSTRING": lambda m: m.raw(1),
    "BINBYTES": lambda m: m.raw(4),
    "SHORT_BINBYTES": lambda m: m.raw(1),
    "BINBYTES8": lambda m: m.raw(8),
    "BYTEARRAY8": lambda m: m.raw(8),
    "UNICODE": lambda m: m.stack.append(codecs.raw_unicode_escape_decode(m.line())[0]),
    "BINUNICODE": lambda m: m.text(4),
    "SHORT_BINUNICODE": lambda m: m.text(1),
    "BINUNICODE8": lambda m: m.text(8),
    "MARK": _Machine.mark,
    "POP": lambda m: m.stack.pop() if m.stack else m.since_mark(),
    "POP_MARK": _Machine.since_mark,
    "DUP": lambda m: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m: m.container([]),
    "EMPTY_TUPLE": lambda m: m.stack.append(()),
    "EMPTY_DICT": lambda m: m.container({}),
    "EMPTY_SET": lambda m: m.container(set(), 4),
    "LIST": lambda m: m.container([_done(item) for item in m.since_mark()]),
    "TUPLE": lambda m: m.container(tuple(m.since_mark())),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "DICT": _Machine.new_dict,
    "APPEND": lambda m: m.extend(m.last(1)),
    "APPENDS": lambda m: m.extend(m.since_mark()),
    "ADDITEMS": lambda m: m.add(m.since_mark()),
    "SETITEM": lambda m: m.set_items(m.last(2)),
    "SETITEMS": lambda m: m.set_items(m.since_mark()),
    "PUT": lambda m: m.put(m.index()),
    "BINPUT": lambda m: m.put(m.number(1)),
    "LONG_BINPUT": lambda m: m.put(m.number(4)),
    "MEMOIZE": lambda m: m.put(len(m.memo)),
    "GET": lambda m: m.get(m.index()),
    "BINGET": lambda m: m.get(m.number(1)),
    "LONG_BINGET": lambda m: m.get(m.number(4)),
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
_NAMES: Final = {ord(op.code): op.name for op in pickletools.opcodes}
_STEPS: Final[dict[int, _Step]] = {
    ord(op.code): _BY_NAME[op.name] for op in pickletools.opcodes if op.name in _BY_NAME
}


def unpickle(data: bytes | memoryview, name: str) -> Any:
    """The value in a pickle: plain data and numpy arrays (read-only, views of `data`).

    Byte strings, and all strings that Python 2 wrote, are bytes or, when large, memoryviews.

    Args:
        data: the whole file.
        name: what to call it in a refusal.

    Raises:
        DataError: it is no pickle, is damaged, or asks for more than data.
    """
    view = memoryview(data)
    expect(bytes(view[:512]), name, Kind.PICKLE)
    machine = _Machine(view)
    try:
        return machine.run()
    except DataError as error:
        raise DataError(
            f"{name} is a pickle that is refused: {error} (byte {machine.at} of {len(view)}). "
            "Only lists, dicts, numbers, text and numeric arrays are read; get the file again, "
            "from a source you trust."
        ) from error
    except DAMAGE as error:
        cause = "it ends too early" if machine.at >= len(view) else f"{error}"[:200]
        raise DataError(
            f"{name} is a truncated or damaged pickle: {cause} (byte {machine.at} of {len(view)}). "
            "Get the file again."
        ) from error
