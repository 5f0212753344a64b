"""Linear maps that know more about themselves than their products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeGuard, runtime_checkable

from jaxtyping import Float
from torch import Tensor

LinearMap: TypeAlias = Callable[[Tensor], Tensor]
"""``(*batch, n) -> (*batch, n)``: one n x n matrix for each task, applied to each task's vector."""


@runtime_checkable
class HessianForm(Protocol):
    """A Hessian in closed form, at one point, for a batch of tasks."""

    def product(self, vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``H v``."""
        ...

    def inverse(self, rhs: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``H^{-1} b`` by a direct method."""
        ...

    def diagonal(self) -> Float[Tensor, "*batch n"]:
        """The diagonal of H."""
        ...


@runtime_checkable
class Structured(Protocol):
    """A linear map with a direct inverse, a known diagonal, and an independent judge."""

    def __call__(self, vector: Tensor) -> Tensor:
        """The product that a solver's iterations use."""
        ...

    def judge(self, vector: Tensor) -> Tensor:
        """The product that a solver's answer is judged by, derived independently."""
        ...

    def inverse(self, rhs: Tensor) -> Tensor:
        """A direct solve."""
        ...

    def diagonal(self) -> Tensor:
        """The diagonal."""
        ...


def is_structured(known: object) -> TypeGuard[Structured]:
    """``isinstance(known, Structured)`` without looking up the Protocol's names, which is slow."""
    return all(callable(getattr(known, name, None)) for name in ("judge", "inverse", "diagonal"))


@dataclass(frozen=True, slots=True)
class Reduction:
    """A map on a subspace that holds a vector and all that the map makes of it.

    The coordinates are those of an orthonormal basis, so that a Krylov solver takes the same steps
    in them, up to rounding.

    Attributes:
        vector: ``(*batch, m)`` the vector's coordinates.
        product: the map in coordinates.
        back: from coordinates to ``(*batch, n)``.
    """

    vector: Float[Tensor, "*batch m"]
    product: LinearMap
    back: LinearMap


@runtime_checkable
class Reducible(Protocol):
    """A linear map, or a Hessian's form, that knows a small invariant subspace of a vector."""

    def reduced(self, vector: Float[Tensor, "*batch n"]) -> Reduction | None:
        """The map around this vector; None where all dimensions cost less."""
        ...


def is_reducible(known: object) -> TypeGuard[Reducible]:
    """``isinstance(known, Reducible)``, likewise."""
    return callable(getattr(known, "reduced", None))
