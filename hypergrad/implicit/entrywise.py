"""Bounds and kinks that hold each entry of phi by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.implicit.active import NonSmooth


@dataclass(frozen=True, slots=True, eq=False)
class Entrywise:
    """``l1 |x| + l2/2 x^2`` on ``[low, high]`` for each entry: four tensors of one shape.

    Attributes:
        l1: not negative.
        l2: not negative.
        low: minus infinity where there is no bound.
        high: infinity where there is none.
    """

    l1: Float[Tensor, "*shape"]
    l2: Float[Tensor, "*shape"]
    low: Float[Tensor, "*shape"]
    high: Float[Tensor, "*shape"]

    @classmethod
    def of(
        cls,
        x: Tensor,
        *,
        l1: Tensor | float = 0.0,
        l2: Tensor | float = 0.0,
        low: Tensor | float = -torch.inf,
        high: Tensor | float = torch.inf,
    ) -> Entrywise:
        """Numbers, and tensors that broadcast, as tensors like x."""
        given = (torch.as_tensor(part).to(x).expand(x.shape) for part in (l1, l2, low, high))
        return cls(*given)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """l1, l2, low and high."""
        return self.l1, self.l2, self.low, self.high

    def value(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """The penalties' sum at a point within the bounds."""
        terms = self.l1 * x.abs() + self.l2 / 2 * x.square()
        return terms.sum(dim=-1)

    def subgradient(
        self, x: Float[Tensor, "*shape"], slope: Float[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """The least subgradient of each entry, where the smooth part has the gradient ``slope``."""
        smooth = slope + self.l2 * x
        below = torch.where(x <= self.low, -torch.inf, smooth + self.l1 * _sign(x, at_zero=-1))
        above = torch.where(x >= self.high, torch.inf, smooth + self.l1 * _sign(x, at_zero=1))
        return below.clamp(min=0.0) + above.clamp(max=0.0)


@runtime_checkable
class Separable(NonSmooth, Protocol):
    """A condition whose sets and penalties may hold each entry by itself."""

    def entrywise(self, theta: Any, phi: Any) -> list[Entrywise]:
        """Bounds and kinks of each leaf's entries.

        Raises:
            InputError: a set or penalty ties entries together.
        """
        ...


def is_separable(lower: object) -> TypeGuard[Separable]:
    """True for a :class:`Separable`; quicker than ``isinstance`` of a protocol."""
    return hasattr(lower, "entrywise") and hasattr(lower, "smooth")


def _sign(x: Tensor, *, at_zero: int) -> Tensor:
    return torch.where(x == 0, float(at_zero), x.sign())
