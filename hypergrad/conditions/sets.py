"""Convex sets that a leaf of phi may be confined to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypergrad.conditions.parts import Value, check_value, masked, require, resolved
from hypergrad.equality import by_value
from hypergrad.errors import InputError
from hypergrad.implicit.entrywise import Entrywise

# A point is at a bound if it equals the bound up to so many roundings: of the bound itself, which
# may be computed in another order, and of a norm.
_ROUNDINGS = 8


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """``low <= x <= high``, entry by entry.

    Attributes:
        low: number, tensor that broadcasts to the leaf, or function of theta; None or an infinite
            entry for no bound.
        high: the same.
    """

    dims: ClassVar[int] = 0

    low: Value | None = None
    high: Value | None = None

    def __post_init__(self) -> None:
        for name, bound in (("low", self.low), ("high", self.high)):
            given = isinstance(bound, int | float | Tensor) and not isinstance(bound, bool)
            if bound is not None and not given and not _is_function(bound):
                raise InputError(
                    f"Box got {name} = a {type(bound).__name__}; give a number, a tensor, a "
                    "function of theta, or None for no bound."
                )
        if self.low is None and self.high is None:
            raise InputError("Box got no bound; give low, high or both.")
        if not _is_function(self.low) and not _is_function(self.high):
            low = _bound(self.low, -torch.inf, beside=self.high)
            high = _bound(self.high, torch.inf, beside=self.low)
            if not bool((low <= high).all()):
                raise InputError(
                    f"Box got low = {self.low} and high = {self.high}; low must not exceed high, "
                    "or nothing is feasible."
                )

    def project(self, theta: Any, x: Tensor) -> Tensor:
        """``x`` clamped to the bounds."""
        low, high = self._feasible(theta, x)
        return torch.minimum(torch.maximum(x, low), high)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """The bound where it is active, x elsewhere."""
        low, high = self._bounds(theta, x)
        at_low, at_high = _at(low - x, low), _at(x - high, high)
        return masked(at_low, low, masked(at_high, high, x))

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The multiplier of an active bound; else the distance to the nearer one."""
        low, high = self._bounds(theta, x)
        at_low, at_high = _at(low - x, low), _at(x - high, high)
        multiplier = masked(at_low, gradient, masked(at_high, -gradient, torch.inf))
        pinned = at_low & at_high  # low = high: nothing can change
        distance = torch.minimum(x - low, high - x)
        return (
            masked(pinned, torch.inf, multiplier),
            masked(at_low | at_high, torch.inf, distance),
        )

    def far_side(self, theta: Any, x: Tensor, gradient: Tensor) -> Tensor:
        """The distance of a free entry to the farther bound."""
        low, high = self._bounds(theta, x)
        held = _at(low - x, low) | _at(x - high, high)
        return masked(held, torch.inf, torch.maximum(x - low, high - x))

    def entrywise(self, theta: Any, x: Tensor) -> Entrywise:
        """The bounds of each entry."""
        low, high = self._feasible(theta, x)
        return Entrywise.of(x, low=low, high=high)

    def _feasible(self, theta: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._bounds(theta, x)
        require(
            low <= high,
            "Box: low exceeds high at this theta, so that nothing is feasible; mend the functions "
            "of theta that give them.",
        )
        return low, high

    def _bounds(self, theta: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        low = -torch.inf if self.low is None else self.low
        high = torch.inf if self.high is None else self.high
        return resolved(low, theta, x, "Box: low"), resolved(high, theta, x, "Box: high")


@dataclass(frozen=True, slots=True)
class NonNegative:
    """``x >= 0``, entry by entry."""

    dims: ClassVar[int] = 0

    def project(self, theta: Any, x: Tensor) -> Tensor:
        """Negative entries set to zero."""
        return x.clamp(min=0.0)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """Zero where x is not positive."""
        return masked(x.detach() <= 0, 0.0, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The multiplier of a zero; else the distance to zero."""
        active = x.detach() <= 0
        return masked(active, gradient, torch.inf), masked(active, torch.inf, x)

    def entrywise(self, theta: Any, x: Tensor) -> Entrywise:
        """The bound of each entry."""
        return Entrywise.of(x, low=0.0)


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class Simplex:
    """``x >= 0`` and ``sum x = total`` over the last dimension.

    Attributes:
        total: positive number, tensor that broadcasts to the leaf with a last dimension of 1, or a
            function of theta.
    """

    dims: ClassVar[int] = 1

    total: Value = 1.0

    def __post_init__(self) -> None:
        check_value("Simplex", "total", self.total, positive=True)

    def project(self, theta: Any, x: Tensor) -> Tensor:
        """The nearest point, ``max(x - t, 0)`` with one t (Held, Wolfe and Crowder 1974)."""
        total = self._total(theta, x)
        ordered = x.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(dim=-1) - total
        count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
        # the support is the longest head whose entries exceed the shift that it would need
        size = (ordered * count > excess).sum(dim=-1, keepdim=True).clamp(min=1)
        shift = excess.gather(-1, size - 1) / size
        return (x - shift).clamp(min=0.0)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """Zero where x is not positive, and the support shifted to the total."""
        support, count = _support(x)
        found = masked(support, x, 0.0)
        shift = (found.sum(dim=-1, keepdim=True) - self._total(theta, x)) / count
        return masked(support, x - shift, 0.0)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """A zero's gradient above the support's mean; else the distance to zero."""
        support, count = _support(x)
        level = masked(support, gradient, 0.0).sum(dim=-1, keepdim=True) / count
        return masked(support, torch.inf, gradient - level), masked(support, x, torch.inf)

    def _total(self, theta: Any, x: Tensor) -> Tensor:
        total = resolved(self.total, theta, x[..., :1], "Simplex: total")
        require(total > 0, "Simplex: the total is not positive at this theta; nothing is feasible.")
        return total


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class L2Ball:
    """``|x| <= radius`` over the last dimension.

    Attributes:
        radius: positive number, tensor that broadcasts to the leaf with a last dimension of 1, or a
            function of theta.
    """

    dims: ClassVar[int] = 1

    radius: Value = 1.0

    def __post_init__(self) -> None:
        check_value("L2Ball", "radius", self.radius, positive=True)

    def project(self, theta: Any, x: Tensor) -> Tensor:
        """The point itself, or its direction at the radius."""
        (length, direction), radius = _polar(x), self._radius(theta, x)
        return masked(length > radius, direction * radius, x)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """The direction of x at the radius where the bound is active, else x."""
        (length, direction), radius = _polar(x), self._radius(theta, x)
        return masked(_at(length - radius, radius), direction * radius, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The multiplier of an active bound, ``-<gradient, x>/|x|``; else the distance to it."""
        (length, direction), radius = _polar(x), self._radius(theta, x)
        active = _at(length - radius, radius)
        multiplier = -(gradient * direction).sum(dim=-1, keepdim=True)
        return (
            masked(active, multiplier, torch.inf).expand(x.shape),
            masked(active, torch.inf, radius - length).expand(x.shape),
        )

    def _radius(self, theta: Any, x: Tensor) -> Tensor:
        radius = resolved(self.radius, theta, x[..., :1], "L2Ball: radius")
        require(radius > 0, "L2Ball: the radius is not positive at this theta.")
        return radius


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """``A x = b`` over the last dimension, with rows of A that are linearly independent.

    Attributes:
        A: ``(m, n)`` or ``(*batch, m, n)``, or a function of theta.
        b: ``(m,)`` or ``(*batch, m)``, or a function of theta.
    """

    dims: ClassVar[int] = 1

    A: Value
    b: Value

    def __post_init__(self) -> None:
        for name, given, least in (("A", self.A, 2), ("b", self.b, 1)):
            if _is_function(given):
                continue
            if not isinstance(given, Tensor) or given.ndim < least:
                shown = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
                raise InputError(
                    f"Affine got {name} = {shown}; give A as a tensor (m, n), b as one (m,), with "
                    "any leading dimensions of tasks, or functions of theta that return them."
                )
        if isinstance(self.A, Tensor):
            rows = self.A.shape[-2]
            if bool((torch.linalg.matrix_rank(self.A.detach()) < rows).any()):
                raise InputError(
                    f"Affine got an A of shape {tuple(self.A.shape)} whose {rows} rows are not "
                    "linearly independent; leave out the equations that follow from the others."
                )

    def project(self, theta: Any, x: Tensor) -> Tensor:
        """``x - A^+ (A x - b)`` by a QR factorisation of A'."""
        A = resolved(self.A, theta, x, "Affine: A", like_x=False)
        b = resolved(self.b, theta, x, "Affine: b", like_x=False)
        if A.shape[-1] != x.shape[-1] or A.shape[-2] != b.shape[-1]:
            raise InputError(
                f"Affine: A has shape {tuple(A.shape)} and b {tuple(b.shape)}, for a leaf of phi "
                f"of shape {tuple(x.shape)}; A must be (m, n) with n = {x.shape[-1]}, b (m,)."
            )
        Q, R = torch.linalg.qr(A.mT)
        z = torch.linalg.solve_triangular(R.mT, b[..., None], upper=False)
        inside = x[..., None] - Q @ (Q.mT @ x[..., None])
        found: Tensor = (inside + Q @ z)[..., 0]
        return found

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """The projection: every point of the set is on the manifold."""
        return self.project(theta, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """None: nothing can change."""
        none = torch.full_like(x, torch.inf)
        return none, none


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def _bound(value: Any, otherwise: float, *, beside: Any) -> Tensor:
    """A bound as a tensor; a number is rounded as a tensor on the other side rounds it."""
    kinds = (bound.dtype for bound in (value, beside) if isinstance(bound, Tensor))
    dtype = next((kind for kind in kinds if kind.is_floating_point), torch.float64)
    given = torch.as_tensor(otherwise if value is None else value, dtype=dtype)
    return given.detach().cpu().double()


def _at(beyond: Tensor, bound: Tensor) -> Tensor:
    """True where a bound is reached, up to rounding of the bound. Values only, no graph."""
    bound = bound.detach()
    slack = _ROUNDINGS * torch.finfo(bound.dtype).eps * bound.abs()
    reached: Tensor = bound.isfinite() & (beyond.detach() >= -slack)
    return reached


def _support(x: Tensor) -> tuple[Tensor, Tensor]:
    """The positive entries, or all where there is none; and their number, ``(..., 1)``."""
    positive = x.detach() > 0
    support = positive | ~positive.any(dim=-1, keepdim=True)
    return support, support.sum(dim=-1, keepdim=True)


def _polar(x: Tensor) -> tuple[Tensor, Tensor]:
    """The norm over the last dimension, kept, and the direction; zero has none."""
    square = x.square().sum(dim=-1, keepdim=True)
    zero = square.detach() == 0
    root = masked(zero, 1.0, square).sqrt()
    return masked(zero, 0.0, root), x / root
