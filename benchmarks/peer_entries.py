"""Rows of benchmarks/peers.py, their methods, and the seam to packages that may be absent."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

RTOL = 1e-6  # |b - H v| <= RTOL |b|, where a solver has a tolerance
STEPS = 1000  # at most, where it has both
LARGEST_DENSE = 1000  # numbers in phi, for methods that build the Hessian
PACKAGES = {
    "torchopt": "torchopt",
    "higher": "higher",
    "betty": "betty-ml",
    "jaxopt": "jaxopt",
    "optimistix": "optimistix",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}


def itself(answer: Any) -> Tensor:
    """An answer that is a tensor already."""
    found: Tensor = answer
    return found


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to the answer of one row.

    Attributes:
        package: whose.
        how: its settings, for the table.
        given: "values" of the lower level, or "derivatives" as well, that the method gets.
        steps: steps of its linear solver or of the unrolled optimiser; None if it does not say.
        run: computes the answer, and waits for it.
        read: the answer as a tensor; outside the time.
    """

    package: str
    how: str
    given: str = "values"
    steps: int | None = None
    run: Callable[[], Any]
    read: Callable[[Any], Tensor] = itself


@dataclass(frozen=True, kw_only=True)
class Row:
    """One problem, and the ways to its answer.

    Attributes:
        name: its name in tables.
        about: remarks that a reader of the times needs.
        error: error of an answer, relative to the exact one's norm.
        methods: makes every method that is installed and can do this; a library's first one with
            what it is given is the reference of its group.
    """

    name: str
    about: dict[str, object]
    error: Callable[[Tensor], float]
    methods: Callable[[], Iterator[Method]]


def version(module: str) -> str | None:
    """The installed version of a peer, None if it is absent."""
    if peer(module) is None:
        return None
    return importlib.metadata.version(PACKAGES.get(module, module))


def peer(module: str) -> Any:
    """The one seam to packages that this project does not depend on, and that have no types."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
