"""Problems with exact answers, and the ways to solve and differentiate them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OURS = "hypergrad"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One library's way to a solution and its derivative.

    Attributes:
        package: whose.
        how: the call, for the table.
        run: returns the solution and the derivative, None for none, as arrays of its own kind.
    """

    package: str
    how: str
    run: Callable[[], tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        name: for the table.
        solution: exact, by dense linear algebra on an active set whose signs were verified.
        derivative: exact, of the upper objective ``|phi|^2/2`` summed over tasks.
        ways: this library's first, to which times are relative.
    """

    name: str
    solution: Tensor
    derivative: Tensor
    ways: Sequence[Way]


def array(found: Any) -> Tensor:
    """Any library's array as a tensor."""
    numpy: Any = importlib.import_module("numpy")
    return torch.from_numpy(numpy.array(found.detach() if isinstance(found, Tensor) else found))


def error(found: Any, exact: Tensor) -> float:
    """Relative, in the norm of all entries."""
    return float((array(found) - exact).norm() / exact.norm())


def peer(name: str) -> Any:
    """A peer's module, in an environment that has it."""
    return importlib.import_module(name)


def jax() -> Any:
    """JAX with 64 bits."""
    module = peer("jax")
    module.config.update("jax_enable_x64", True)
    return module
