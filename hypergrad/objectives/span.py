"""A linear head on few examples in few coordinates, in which it is the same problem.

With n examples of d features, ``X = L Q`` for n orthonormal rows Q (QR of X'). An objective of the
scores ``X W'`` and of ``|W|`` never leaves the rows that it began with: a step changes W within the
span of Q, and shrinks what lies beyond. In an orthonormal basis of both, the head has n + 1
coordinates for each class, and the objective is the same function of the features ``[L, 0]``. The
change of coordinates keeps inner products, so that gradient descent, Newton's method and Krylov
solvers take the same steps in either, up to rounding, at a cost without d.

Shapes: n examples, d features, c classes; *batch are the tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.operator import LinearMap, Reduction
from hypergrad.linear.solution import norm
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta


class Span:
    """Coordinates of heads that differ from a given one within the span of the features.

    Attributes:
        features: ``(*batch, n, n+1)`` the features in these coordinates.
    """

    features: Float[Tensor, "*batch n m"]

    def __init__(
        self, features: Float[Tensor, "*batch n d"], head: Float[Tensor, "*batch c d"]
    ) -> None:
        """Span the features' rows, and what of the head lies beyond them."""
        q, r = torch.linalg.qr(features.mT)
        self._basis = q.mT
        self.features = torch.nn.functional.pad(r.mT, (0, 1))
        beyond = head
        for _ in range(2):  # once leaves rounding of the whole head, which may be all there is
            beyond = beyond - (beyond @ q) @ self._basis
        size = norm(beyond)[..., None]
        self._beyond = beyond / torch.where(size > 0, size, 1.0)

    def coordinates(self, head: Float[Tensor, "*batch c d"]) -> Float[Tensor, "*batch c m"]:
        """Those of a head that lies in the span."""
        along = torch.linalg.vecdot(head, self._beyond)
        return torch.cat((head @ self._basis.mT, along[..., None]), -1)

    def head(self, coordinates: Float[Tensor, "*batch c m"]) -> Float[Tensor, "*batch c d"]:
        """The head with these coordinates."""
        within, along = coordinates[..., :-1], coordinates[..., -1:]
        return torch.addcmul(within @ self._basis, along, self._beyond)

    def reduction(self, product: LinearMap, head: Float[Tensor, "*batch c d"]) -> Reduction:
        """A Hessian's solves for a head in the span, heads being laid out flat as in solvers.

        Args:
            product: the Hessian's, on the features of this span.
            head: the right-hand side.
        """

        def back(vector: Tensor) -> Tensor:
            return self.head(vector.unflatten(-1, (head.shape[-2], -1))).flatten(start_dim=-2)

        return Reduction(
            vector=self.coordinates(head).flatten(start_dim=-2), product=product, back=back
        )


def span_of(
    features: Float[Tensor, "*batch n d"], head: Float[Tensor, "*batch c d"]
) -> Span | None:
    """The span, where it pays; None where it does not.

    The factorisation costs some four products with the features, so d must be at least twice the
    coordinates. On a GPU, or what is like one, a product of this size lasts as long as its launch,
    whatever d is, and QR factorises one task after the other.
    """
    n, d = features.shape[-2:]
    half = features.dtype in (torch.float16, torch.bfloat16)  # which nothing factorises
    if d < 2 * (n + 1) or features.device.type != "cpu" or half:
        return None
    return Span(features, head)


@runtime_checkable
class Spanned(Protocol):
    """An objective of the scores ``theta @ phi.mT`` and of ``|phi|`` alone."""

    def span(self, theta: Tensor, phi: Tensor) -> Span | None:
        """Coordinates for solves that begin at phi, if they pay."""
        ...


def in_coordinates(
    lower: Objective[Theta, Phi], theta: Theta, phi: Phi
) -> tuple[Theta, Phi, Callable[[Phi], Phi]]:
    """Where a solver whose steps do not depend on the basis should take them, and the way back.

    The same theta and phi where the objective knows no better.
    """
    span = None
    if isinstance(lower, Spanned) and isinstance(theta, Tensor) and isinstance(phi, Tensor):
        span = lower.span(theta, phi)
    if span is None:
        return as_it_is(theta, phi)
    start = span.coordinates(cast(Tensor, phi))
    return cast(Theta, span.features), cast(Phi, start), cast(Callable[[Phi], Phi], span.head)


def as_it_is(theta: Theta, phi: Phi) -> tuple[Theta, Phi, Callable[[Phi], Phi]]:
    """The true coordinates, likewise."""
    return theta, phi, lambda found: found
