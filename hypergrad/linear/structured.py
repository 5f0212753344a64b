"""Linear maps that know more about themselves than their products."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


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
