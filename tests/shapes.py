"""Runtime type checks at less cost: jaxtyping's wrapper for functions with shapes, else beartype.

The wrapper binds the arguments of each call to the signature, so that shapes agree across them, and
checks all arguments once more with what is returned. A function whose annotations name no shape
has nothing to agree on: beartype alone checks the same types.

The wrapper takes far longer than a look at the types, shapes and dtypes of a call does, and
its verdict depends on nothing else. So calls of a kind that has passed are not checked again.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Collection
from functools import update_wrapper
from types import FunctionType, NoneType
from typing import Any, ParamSpecArgs, ParamSpecKwargs

import jaxtyping
import numpy as np
import torch
from beartype import beartype

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_LONGEST = 300  # entries of a container that are looked at one by one
# no annotation asks for the value of such; types of one's own are added when met
_told_by_type: set[type] = {float, complex, NoneType, bytes}
_LITERAL = range(10)  # and of whole numbers for those alone
_ARRAYS = frozenset({torch.Tensor, np.ndarray})
_whole: Any = jaxtyping.jaxtyped
# by function: the kinds of arguments that have passed, each with the kinds of what was returned;
# None: what has none, so that such calls are all checked
_passed: dict[object, dict[Any, set[Any]]] = {}


class ManyKindsError(Exception):
    """A value whose kind is not told at a glance."""


def install() -> None:
    """Replace jaxtyping's decorator, which its import hook puts on every function by name."""
    jaxtyping.jaxtyped = _checked


def _checked(fn: Any = None, *, typechecker: Any = None) -> Any:
    if fn is None:
        return lambda function: _checked(function, typechecker=typechecker)
    if isinstance(fn, type):
        if "__dataclass_fields__" in vars(fn) and isinstance(vars(fn)["__init__"], FunctionType):
            fn.__init__ = once(fn.__init__, typechecker)  # type: ignore[misc]
        return fn
    # beartype would keep a function made within another, and with it the tensors that it holds
    if isinstance(fn, FunctionType) and fn.__closure__ is None and not names_shapes(fn):
        return beartype(fn)
    return once(fn, typechecker)


def once(fn: FunctionType, typechecker: Any) -> Callable[..., Any]:
    """A function whose calls are checked by jaxtyping, those of one kind once."""
    # a function made within another is made again and again, and is the same each time
    name = fn.__module__, fn.__qualname__, fn.__code__.co_firstlineno
    passed = _passed.setdefault(name, {})
    made: list[Callable[..., Any]] = []

    def whole(*args: Any, **named: Any) -> Any:
        if not made:
            made.append(_whole(fn, typechecker=typechecker))
        return made[0](*args, **named)

    def checked(*args: Any, **named: Any) -> Any:
        try:
            given = tuple(map(kind, args))
            if named:
                given = (given, *((key, kind(value)) for key, value in named.items()))
        except ManyKindsError:
            return whole(*args, **named)
        before = passed.get(given)
        if before is not None and None in before:
            return whole(*args, **named)
        answer = whole(*args, **named) if before is None else fn(*args, **named)
        try:
            found = kind(answer)
        except ManyKindsError:
            found = None
        if before is None:
            passed[given] = {found}
        elif found not in before:
            _check_answer(fn, typechecker, answer, args, named)
            before.add(found)
        return answer

    # nobody's code, as that of beartype's wrappers: a warning names the nearest line of a user
    for own in (whole, checked):
        own.__code__ = own.__code__.replace(co_filename="<checks>")
    return update_wrapper(checked, fn)


def _check_answer(
    fn: FunctionType, typechecker: Any, answer: Any, args: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """What jaxtyping says of a call that returned this."""

    def returned(*_: Any, **__: Any) -> Any:
        return answer

    # annotations are looked up among the function's own names
    same = FunctionType(returned.__code__, fn.__globals__, closure=returned.__closure__)
    _whole(update_wrapper(same, fn), typechecker=typechecker)(*args, **named)


def kind(value: Any) -> Any:
    """What a type check may depend on.

    Raises:
        ManyKindsError: a long container, a container of a type of its own, or a size that is no
            number.
    """
    own: Any = type(value)
    if own in _told_by_type:  # most of what is given
        return own
    if own in _ARRAYS:
        return own, value.dtype, _sizes(value.shape)
    if own is int:
        return (own, value) if value in _LITERAL else own
    if own is bool or own is str:
        return own, value
    if own is tuple or own is list:
        if len(value) > _LONGEST:
            raise ManyKindsError
        return (own, *map(kind, value))
    if own is dict:
        if len(value) > _LONGEST:
            raise ManyKindsError
        return (own, *((key, kind(entry)) for key, entry in value.items()))
    if isinstance(value, type):
        return type, value
    if isinstance(value, torch.Tensor | np.ndarray):
        return own, value.dtype, _sizes(value.shape)
    if own is not torch.Size and issubclass(own, Collection):
        raise ManyKindsError
    _told_by_type.add(own)
    return own


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    for size in shape:
        if type(size) is not int:  # an export's symbol
            raise ManyKindsError
    return shape


def names_shapes(function: Callable[..., Any]) -> bool:
    """Whether an annotation of a function has a shape in it, or a name that nobody knows yet."""
    for annotation in function.__annotations__.values():
        if not isinstance(annotation, str):
            if _has_shape(annotation):
                return True
            continue
        for name in _NAME.findall(annotation):
            first, *rest = name.split(".")
            known = function.__globals__.get(first, getattr(builtins, first, jaxtyping))
            for part in rest:
                known = getattr(known, part, jaxtyping)
            # of P.args and P.kwargs beartype takes offence at its own copies of them
            if isinstance(known, ParamSpecArgs | ParamSpecKwargs) or known is jaxtyping:
                return True
            if _has_shape(known):
                return True
    return False


def _has_shape(value: Any) -> bool:
    """Whether a type is jaxtyping's, or built of such: an alias of a union, of a dict, ..."""
    if "jaxtyping" in (getattr(value, "__module__", None) or "") + type(value).__module__:
        return True
    return any(map(_has_shape, getattr(value, "__args__", None) or ()))
