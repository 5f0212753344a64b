"""The nuclear norm: a convex penalty under which matrices have low rank.

The active manifold is that of matrices of rank r, r read from phi's singular values. Singular
vectors have no derivative where singular values coincide, though all that is needed here has. So
the vectors are taken from phi's values, as constants U and V of the r largest, and what varies is
written by blocks in their bases, ``X = [[P, Q], [R, T]]``, ``P = U' X V``:

- ``[P; R] P^-1 [P, Q]`` has rank r, leaves matrices of rank r as they are, and differs from X by
  ``T - R P^-1 Q`` only. Along the manifold its second derivative is ``2 R P^-1 Q``, normal to it.
- With ``[P; R] P^-1 = Q_1 R_1`` and ``P^-1 [P, Q] = R_2' Q_2'``, orthonormal columns in Q_1 and
  Q_2, the nuclear norm of a matrix of rank r is that of the r by r matrix ``R_1 P R_2'``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hypergrad.conditions.parts import Value, check_value, has_kink, masked, require, resolved
from hypergrad.equality import by_value

# Singular values up to so many units of eps max(m, n), relative to the largest, are zero: four
# times what torch.linalg.matrix_rank leaves out.
_ROUNDINGS = 4
# The scaled Newton iteration for the polar factor ends in 9 steps for any condition number up to
# 1e16 (Byers and Xu 2008); its derivatives are a step behind.
_POLAR_STEPS = 10


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class NuclearNorm:
    """``strength`` times the sum of singular values, each last two dimensions a matrix.

    Attributes:
        strength: number, tensor that broadcasts to the leaf with last dimensions of 1, or function
            of theta; not negative.
    """

    dims: ClassVar[int] = 2

    strength: Value

    def __post_init__(self) -> None:
        check_value("NuclearNorm", "strength", self.strength, positive=False)

    def value(self, theta: Any, x: Tensor) -> Tensor:
        """``strength`` times the nuclear norm, smooth among matrices of x's rank."""
        at = _Blocks(x)
        return self._at(theta, x) * at.nuclear_norm()[..., None, None]

    def prox(self, theta: Any, x: Tensor, step: Tensor) -> Tensor:
        """Singular values moved towards zero by ``step strength``, and no further."""
        strength = self._at(theta, x)
        require(
            strength >= 0,
            "NuclearNorm: the strength is negative at this theta, so that the penalty is not "
            "convex; give it as exp() or softplus() of theta.",
        )
        u, s, vh = torch.linalg.svd(_finite(x), full_matrices=False)
        left = (s - (step * strength)[..., 0]).clamp(min=0.0)
        return masked(_is_finite(x), (u * left[..., None, :]) @ vh, torch.nan)

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """A matrix of x's rank, which x is if its rank is that to the last bit.

        Any matrix, where the strength is zero whatever theta is.
        """
        at = _Blocks(x)
        found: Tensor = at.tall @ at.down
        return masked(has_kink(self.strength, self._at(theta, x)), found, x)

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplier and distance, the same for all entries of a matrix.

        ``strength`` less the gradient's largest singular value outside of x's row and column
        space, unless x has full rank; and x's least singular value that is not zero.
        """
        if not x.numel():
            return torch.full_like(x, torch.inf), torch.full_like(x, torch.inf)
        at = _Blocks(x)
        outside = gradient - at.columns() @ gradient
        outside = outside - outside @ at.rows()
        strength = self._at(theta, x)
        multiplier = strength - torch.linalg.matrix_norm(outside, ord=2)[..., None, None]
        kink = has_kink(self.strength, strength)
        free = at.active.all(dim=-1)[..., None, None] | ~kink
        values = torch.linalg.svdvals(_finite(x))
        distance = masked(at.active, values, torch.inf).amin(dim=-1)[..., None, None]
        distance = masked(kink, distance, torch.inf)
        return masked(free, torch.inf, multiplier).expand(x.shape), distance.expand(x.shape)

    def _at(self, theta: Any, x: Tensor) -> Tensor:
        return resolved(self.strength, theta, x[..., :1, :1], "NuclearNorm: strength")


class _Blocks:
    """A matrix in the bases of its values' singular vectors; see the module's text.

    Attributes:
        active: ``(*batch, k)`` true for singular values that are not zero, ``k = min(m, n)``.
        tall: ``(*batch, m, k)`` ``[P; R] P^-1``; zero in columns that are not active.
        down: ``(*batch, k, n)`` ``[P, Q]``; zero in rows that are not active.
    """

    def __init__(self, x: Tensor) -> None:
        constant = _finite(x.detach())
        u, s, vh = torch.linalg.svd(constant, full_matrices=False)
        least = _ROUNDINGS * max(x.shape[-2:]) * torch.finfo(x.dtype).eps
        largest = s[..., :1] if s.shape[-1] else s.new_zeros(*s.shape[:-1], 1)
        self.active = s > least * largest
        u, v = u * self.active[..., None, :], vh.mT * self.active[..., None, :]
        # of tasks of lower rank: the largest value, so that it widens no spectrum
        scale = masked(largest > 0, largest, 1.0)
        lengths = torch.cat([masked(self.active, s, scale), scale], dim=-1)
        self._range = lengths.amin(dim=-1), scale[..., 0]
        filled = torch.diag_embed(masked(self.active, 0.0, scale))
        self.down = u.mT @ x
        self._core = self.down @ v + filled
        inverse = torch.linalg.inv_ex(self._core).inverse
        self.tall = x @ v @ inverse
        self._wide = inverse @ self.down
        self._eye = torch.diag_embed((~self.active).to(x.dtype))

    def columns(self) -> Tensor:
        """``(*batch, m, m)`` the projector onto the column space."""
        gram = self.tall.mT @ self.tall + self._eye
        found: Tensor = self.tall @ torch.linalg.inv_ex(gram).inverse @ self.tall.mT
        return found

    def rows(self) -> Tensor:
        """``(*batch, n, n)`` the projector onto the row space."""
        gram = self._wide @ self._wide.mT + self._eye
        found: Tensor = self._wide.mT @ torch.linalg.inv_ex(gram).inverse @ self._wide
        return found

    def nuclear_norm(self) -> Tensor:
        """``(*batch,)`` the nuclear norm of the matrix of x's rank."""
        first = torch.linalg.cholesky_ex(self.tall.mT @ self.tall + self._eye).L
        second = torch.linalg.cholesky_ex(self._wide @ self._wide.mT + self._eye).L
        square = first.mT @ self._core @ second
        # <W, square>, W its polar factor: both have active and other entries in blocks
        terms = (_polar(square, *self._range) * square).sum(dim=-1)
        return masked(self.active, terms, 0.0).sum(dim=-1)


def _polar(square: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The orthogonal factor W of ``square = W S``, by Newton's iteration scaled for its spectrum.

    Args:
        square: ``(*batch, k, k)`` not singular.
        low: ``(*batch,)`` its least singular value.
        high: ``(*batch,)`` its largest.
    """
    for _ in range(_POLAR_STEPS):
        scale = (low * high).rsqrt()[..., None, None]
        ratio = (high / low).sqrt()
        square = (square * scale + torch.linalg.inv_ex(square).inverse.mT / scale) / 2
        low, high = torch.ones_like(ratio), (ratio + 1 / ratio) / 2
    return square


def _is_finite(x: Tensor) -> Tensor:
    return x.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)


def _finite(x: Tensor) -> Tensor:
    """x, zero where a matrix is not finite: ``svd`` raises for such a matrix."""
    return masked(_is_finite(x), x, 0.0)
