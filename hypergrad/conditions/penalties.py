"""Convex penalties with kinks at zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypergrad.conditions.parts import (
    Value,
    check_value,
    has_kink,
    masked,
    require,
    resolved,
)
from hypergrad.equality import by_value
from hypergrad.implicit.entrywise import Entrywise


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class L1:
    """``sum strength |x|``: the lasso's penalty.

    Attributes:
        strength: number, tensor that broadcasts to the leaf (one for each entry, say), or function
            of theta; not negative.
    """

    dims: ClassVar[int] = 0

    strength: Value

    def __post_init__(self) -> None:
        check_value("L1", "strength", self.strength, positive=False)

    def value(self, theta: Any, x: Tensor) -> Tensor:
        """``strength |x|``."""
        return resolved(self.strength, theta, x, "L1: strength") * x.abs()

    def prox(self, theta: Any, x: Tensor, step: Tensor) -> Tensor:
        """Entries moved towards zero by ``step strength``, and no further."""
        return _shrunk(x, step * _strength("L1", self.strength, theta, x))

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """Zeros stay zeros, where the strength is not zero."""
        held = _at_kink(x, self.strength, resolved(self.strength, theta, x, "L1: strength"))
        return masked(held, 0.0, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """``strength - |gradient|`` of a zero; else the distance to zero."""
        strength = resolved(self.strength, theta, x, "L1: strength")
        free = masked(has_kink(self.strength, strength), x.abs(), torch.inf)
        return _zero_or_not(_at_kink(x, self.strength, strength), strength - gradient.abs(), free)

    def far_side(self, theta: Any, x: Tensor, gradient: Tensor) -> Tensor:
        """``strength + |gradient|`` of a zero: the distance to the other limit."""
        strength = resolved(self.strength, theta, x, "L1: strength")
        return masked(_at_kink(x, self.strength, strength), strength + gradient.abs(), torch.inf)

    def entrywise(self, theta: Any, x: Tensor) -> Entrywise:
        """``strength |x|`` of each entry."""
        return Entrywise.of(x, l1=_strength("L1", self.strength, theta, x))


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class ElasticNet:
    """``sum l1 |x| + l2/2 x^2``.

    scikit-learn's ``alpha`` and ``l1_ratio`` are ``l1 = alpha l1_ratio`` and
    ``l2 = alpha (1 - l1_ratio)``, where g is its mean squared error over two.

    Attributes:
        l1: number, tensor that broadcasts to the leaf, or function of theta; not negative.
        l2: the same.
    """

    dims: ClassVar[int] = 0

    l1: Value
    l2: Value

    def __post_init__(self) -> None:
        check_value("ElasticNet", "l1", self.l1, positive=False)
        check_value("ElasticNet", "l2", self.l2, positive=False)

    def value(self, theta: Any, x: Tensor) -> Tensor:
        """``l1 |x| + l2/2 x^2``."""
        l1 = resolved(self.l1, theta, x, "ElasticNet: l1")
        l2 = resolved(self.l2, theta, x, "ElasticNet: l2")
        return l1 * x.abs() + l2 / 2 * x.square()

    def prox(self, theta: Any, x: Tensor, step: Tensor) -> Tensor:
        """Entries moved towards zero by ``step l1``, then divided by ``1 + step l2``."""
        l1 = _strength("ElasticNet", self.l1, theta, x)
        l2 = _strength("ElasticNet", self.l2, theta, x)
        return _shrunk(x, step * l1) / (1 + step * l2)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """Zeros stay zeros, where l1 is not zero."""
        held = _at_kink(x, self.l1, resolved(self.l1, theta, x, "ElasticNet: l1"))
        return masked(held, 0.0, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """``l1 - |gradient|`` of a zero; else the distance to zero."""
        l1 = resolved(self.l1, theta, x, "ElasticNet: l1")
        free = masked(has_kink(self.l1, l1), x.abs(), torch.inf)
        return _zero_or_not(_at_kink(x, self.l1, l1), l1 - gradient.abs(), free)

    def far_side(self, theta: Any, x: Tensor, gradient: Tensor) -> Tensor:
        """``l1 + |gradient|`` of a zero: the distance to the other limit."""
        l1 = resolved(self.l1, theta, x, "ElasticNet: l1")
        return masked(_at_kink(x, self.l1, l1), l1 + gradient.abs(), torch.inf)

    def entrywise(self, theta: Any, x: Tensor) -> Entrywise:
        """``l1 |x| + l2/2 x^2`` of each entry."""
        l1 = _strength("ElasticNet", self.l1, theta, x)
        return Entrywise.of(x, l1=l1, l2=_strength("ElasticNet", self.l2, theta, x))


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class GroupL2:
    """``sum strength |x_group|``, each last dimension a group: rows are zero or not as a whole.

    Attributes:
        strength: number, tensor that broadcasts to the leaf with a last dimension of 1 (one for
            each group, say), or function of theta; not negative.
    """

    dims: ClassVar[int] = 1

    strength: Value

    def __post_init__(self) -> None:
        check_value("GroupL2", "strength", self.strength, positive=False)

    def value(self, theta: Any, x: Tensor) -> Tensor:
        """``strength |x_group|``, smooth where a group is not zero."""
        zero = _is_zero(x)
        length = masked(zero, 1.0, x.square().sum(dim=-1, keepdim=True)).sqrt()
        return masked(zero, 0.0, self._at(theta, x) * length)

    def prox(self, theta: Any, x: Tensor, step: Tensor) -> Tensor:
        """A group shortened by ``step strength``, and no further than to zero."""
        strength = _strength("GroupL2", self.strength, theta, x[..., :1])
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        left = (length - step * strength).clamp(min=0.0)
        return masked(length > 0, x * left / masked(length > 0, length, 1.0), 0.0)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """Groups of zeros stay such, where the strength is not zero."""
        return masked(_is_zero(x) & has_kink(self.strength, self._at(theta, x)), 0.0, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """``strength - |gradient|`` of a group of zeros; else its distance to zero."""
        slope = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        length, strength = torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._at(theta, x)
        kink = has_kink(self.strength, strength)
        free = masked(kink, length, torch.inf)
        multiplier, distance = _zero_or_not(_is_zero(x) & kink, strength - slope, free)
        return multiplier.expand(x.shape), distance.expand(x.shape)

    def _at(self, theta: Any, x: Tensor) -> Tensor:
        return resolved(self.strength, theta, x[..., :1], "GroupL2: strength")


def _strength(owner: str, value: Value, theta: Any, x: Tensor) -> Tensor:
    found = resolved(value, theta, x, f"{owner}: strength")
    require(
        found >= 0,
        f"{owner}: a strength is negative at this theta, so that the penalty is not convex; give "
        "it as exp() or softplus() of theta.",
    )
    return found


def _shrunk(x: Tensor, by: Tensor) -> Tensor:
    return x.sign() * (x.abs() - by).clamp(min=0.0)


def _at_kink(x: Tensor, value: Value, strength: Tensor) -> Tensor:
    return (x.detach() == 0) & has_kink(value, strength)


def _is_zero(x: Tensor) -> Tensor:
    return (x.detach() == 0).all(dim=-1, keepdim=True)


def _zero_or_not(zero: Tensor, subgradient: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    return masked(zero, subgradient, torch.inf), masked(zero, torch.inf, distance)
