"""Runtime type checks at less cost: jaxtyping's wrapper for functions with shapes, else beartype.

The wrapper binds the arguments of each call to the signature, so that shapes agree across them, and
checks all arguments once more with what is returned. A function whose annotations name no shape
has nothing to agree on: beartype alone checks the same types.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpecArgs, ParamSpecKwargs

import jaxtyping
from beartype import beartype

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_whole: Any = jaxtyping.jaxtyped


def install() -> None:
    """Replace jaxtyping's decorator, which its import hook puts on every function by name."""
    jaxtyping.jaxtyped = _checked


def _checked(fn: Any = None, *, typechecker: Any = None) -> Any:
    if fn is None:
        return lambda function: _checked(function, typechecker=typechecker)
    # beartype would keep a function made within another, and with it the tensors that it holds
    if isinstance(fn, FunctionType) and fn.__closure__ is None and not names_shapes(fn):
        return beartype(fn)
    return _whole(fn, typechecker=typechecker)


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
