"""Dataclasses from JSON: every value is of the type its field says, or the field is named."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Value = TypeVar("Value")

LATER: Final = "later"
"""Metadata of a field that older files do not have; its default is what they mean."""


def parse(text: str | bytes) -> Any:
    """The JSON value of a text.

    Raises:
        ValueError: the text is no JSON (NaN and infinity, which Python would take, are none), or
            not UTF-8.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON value")

    return json.loads(text, parse_constant=refuse)


def read(kind: type[Value], value: object, name: str) -> Value:
    """The value as a `kind`: a dataclass, or what the fields of one may be.

    Args:
        kind: expected type.
        value: a JSON value.
        name: name of the value, for the message.

    Raises:
        ValueError: the value is of another type, lacks a field, or has one too many.
    """
    return cast(Value, read_any(kind, value, name))


def read_any(kind: Any, value: object, name: str) -> object:
    """The value as what a type annotation says, a union included; see `read`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _first(arguments, value, name)
    if origin is Literal:
        if type(value) in (str, int) and value in arguments:
            return value
        allowed = ", ".join(map(str, arguments))
        raise ValueError(f"{name} is {value!r}: one of {allowed} was expected")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, name)
    if origin is list and isinstance(value, list):
        return [read_any(arguments[0], part, f"{name}[{at}]") for at, part in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(read_any(arguments[0], part, f"{name}[{at}]") for at, part in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: read_any(arguments[1], part, f"{name}.{key}") for key, part in value.items()}
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        value = float(value)  # JSON has one kind of number
    if kind is Any or type(value) is (origin or kind):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: a finite number was expected")
        return value
    expected = getattr(origin or kind, "__name__", str(kind))
    raise ValueError(f"{name} is {value!r}: {expected} was expected")


def _first(kinds: tuple[Any, ...], value: object, name: str) -> object:
    """The value as the first of these kinds that it is."""
    problems = []
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return read_any(kind, value, name)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; ".join(problems))


def _dataclass(kind: type, value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}: an object was expected")
    hints = get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    later = {field.name for field in dataclasses.fields(kind) if LATER in field.metadata}
    if not known - later <= value.keys() <= known:
        raise ValueError(
            f"{name} has missing fields {sorted(known - value.keys())} and unknown ones "
            f"{sorted(value.keys() - known)}; was it written by another version?"
        )
    return kind(**{key: read_any(hints[key], part, f"{name}.{key}") for key, part in value.items()})
