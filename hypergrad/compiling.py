"""A solver's loop as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

from hypergrad.errors import InputError

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


@cache
def compiled(loop: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """The loop by ``torch.compile``: whole, all its steps in a row, without autograd.

    One program for each kind of call, that is for its shapes, types and constants, at the first
    such call. Shapes are never generalised, so that a call rounds the same, whatever was compiled
    before it.

    Raises:
        InputError: when called: what the loop calls can't be compiled, or nothing can be here.
    """
    whole = torch.compile(loop, fullgraph=True, dynamic=False)

    @wraps(loop)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        try:
            with torch.no_grad():
                return whole(*args, **kwargs)
        except Exception as error:
            if not _is_the_compilers(error):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                "compiled=True was given, and torch.compile says "
                f"{type(error).__name__}: {reason}. "
                "It needs a compiler on this machine; products and gradients without autograd, "
                "such as those of the objectives that know theirs (SoftmaxRegression, "
                "RidgeRegression, Quadratic); and no more kinds of calls (shapes, types, and "
                "constants, such as l2 or the number of steps) than "
                "torch._dynamo.config.recompile_limit. Else leave compiled out."
            ) from error

    return run


def outside(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """The function, which torch.compile leaves to Python: one graph break for a whole call.

    A solver looks at values and walks graphs, and each would be a break of its own. The compiler is
    loaded when it first meets the function, and not by the import of this library.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        if torch.compiler.is_compiling():
            hidden: Callable[Arguments, Answer] = torch.compiler.disable(function)
            return hidden(*args, **kwargs)
        return function(*args, **kwargs)

    return run


def _is_the_compilers(error: Exception) -> bool:
    """Whether torch.compile raised it; by name, since not every version has the same classes."""
    kinds = (kind.__module__ for kind in type(error).__mro__)
    within = any(name.startswith(("torch._dynamo", "torch._inductor")) for name in kinds)
    return within or "no compiled frames" in str(error)  # a plain RuntimeError, where it is off
