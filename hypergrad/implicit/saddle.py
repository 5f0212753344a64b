"""An equation ``F(theta, phi) = 0``, linearised at a point by reverse-mode autodiff.

With ``A = dF/dphi``, a product ``A' v`` is one backward pass through the graph of F, built once. A
product ``A v`` is the derivative of ``A' w`` in w, whose graph is built when the first is asked
for: in second derivatives, in forward mode, and by Newton's method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.engine import filled, pulled
from hypergrad.equation import Pair, Saddle, called
from hypergrad.graph import custom_among, explained, no_dependence, raise_if_error_node
from hypergrad.guards import require_finite
from hypergrad.implicit.curvature import Point
from hypergrad.implicit.probe import Probing
from hypergrad.implicit.root_probe import root_probe
from hypergrad.linear.operator import Halves, Kind, Operator
from hypergrad.linear.vectors import norm
from hypergrad.objective import evaluate_with_graph
from hypergrad.tree import check_same_kind, check_tree, flatten, fresh_leaf, leaves, like

# of a product A v, the only one that differentiates twice
_INSTEAD = (
    "Find phi by Anderson or Iteration (of a FixedPoint), which take none, or by other means and "
    "attach it"
)


class Jacobian:
    """F at a point, with products of its Jacobian A, of the transpose, and ``(dF/dtheta)' v``.

    Attributes:
        batch: the tasks' dimensions.
        residual: ``(*batch, n)`` F.
        graph: see :class:`Linearisation`.
    """

    def __init__(
        self, lower: Saddle, theta: Any, pair: Pair[Any], *, needed: Sequence[bool] | None = None
    ) -> None:
        """Evaluate F once, and keep its graph; see :class:`Linearisation`.

        Raises:
            InputError: see :func:`hypergrad.objective.evaluate`.
            NotFiniteError: F is NaN or infinite.
        """
        check_tree(theta, "theta")
        check_same_kind(theta, pair.phi)
        needed = [True] * len(leaves(theta)) if needed is None else needed
        pairs = zip(leaves(theta), needed, strict=True)
        upper = [fresh_leaf(leaf, requires_grad=need) for leaf, need in pairs]
        self._theta = [leaf for leaf, need in zip(upper, needed, strict=True) if need]
        self._phi: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(pair.phi)]
        multiplier = [fresh_leaf(leaf) for leaf in leaves(pair.multiplier)]
        point = Pair(like(pair.phi, self._phi), like(pair.multiplier, multiplier))
        values, nodes = evaluate_with_graph(lower, like(theta, upper), point)
        self.batch = values.shape
        self._custom, self._subject = custom_among(nodes), called(lower)
        self.graph: tuple[int, tuple[str, ...]] = len(nodes), tuple(self._custom)
        # d <u, F> / du is F itself, with its graph, at the cost of a multiplication
        with torch.enable_grad():
            parts = torch.autograd.grad(
                values, multiplier, torch.ones_like(values), create_graph=True
            )
            self._residual = flatten(parts, self.batch)
        self._linear: tuple[Tensor, Tensor] | None = None  # w and A'w, with its graph
        self.residual: Float[Tensor, "*batch n"] = self._residual.detach()
        require_finite(self.residual, "the residual of the condition", per_task=False)

    def transposed(self, vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``A' v``, each task's own, by one backward pass through F."""
        parts = self._pulled(self._phi, vector)
        return flatten(filled(parts, self._phi), self.batch)

    def forward(self, vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``A v``, each task's own: the derivative of the linear map ``w -> A' w``."""
        if self._linear is None:
            w = torch.zeros_like(self._residual, requires_grad=True)
            with torch.enable_grad(), explained(self._custom, instead=_INSTEAD):
                parts = pulled(self._residual, self._phi, w, record=True)
                raise_if_error_node(parts, self._custom, instead=_INSTEAD)
                image = flatten(filled(parts, self._phi), self.batch)
            self._linear = w, image
        w, image = self._linear
        if not image.requires_grad:  # F does not depend on phi: A = 0
            return torch.zeros_like(vector)
        with explained(self._custom, instead=_INSTEAD):
            parts = pulled(image, [w], vector)
        return filled(parts, [w])[0]

    def cross(self, vector: Float[Tensor, "*batch n"]) -> list[Tensor]:
        """``(dF/dtheta)' v`` for each needed leaf of theta.

        Raises:
            InputError: if F depends on no leaf of theta.
        """
        if not self._theta:
            return []
        parts = self._pulled(self._theta, vector)
        if all(part is None for part in parts):
            raise no_dependence(self._subject, "phi")
        return list(filled(parts, self._theta))

    def _pulled(self, points: Sequence[Tensor], vector: Tensor) -> Sequence[Tensor | None]:
        if not self._residual.requires_grad:
            return [None] * len(points)
        with explained(self._custom):
            return pulled(self._residual, points, vector)

    def operators(self) -> Halves:
        """A' and A, counting their products."""
        return Halves(
            transposed=Operator(self.transposed, kind=Kind.GENERAL, transposed=True),
            forward=Operator(self.forward, kind=Kind.GENERAL),
        )


def linearise(
    lower: Saddle,
    theta: Any,
    pair: Pair[Any],
    *,
    needed: Sequence[bool] | None = None,
    probe: Probing = "never",
) -> Point:
    """The saddle of an equation at a pair: gradient ``(0, F)``, Hessian ``[[0, A'], [A, 0]]``."""
    at = Jacobian(lower, theta, pair, needed=needed)
    halves = at.operators()

    def product(vector: Tensor) -> Tensor:
        first, second = vector.chunk(2, dim=-1)
        images = [
            half(part) if bool((part != 0).any()) else torch.zeros_like(part)
            for half, part in ((halves.transposed, second), (halves.forward, first))
        ]
        return torch.cat(images, dim=-1)

    return Point(
        batch=at.batch,
        values=norm(at.residual),
        gradient=torch.cat([torch.zeros_like(at.residual), at.residual], dim=-1),
        hessian=Operator(product, kind=Kind.SYMMETRIC, halves=halves),
        cross=lambda vector: at.cross(vector.chunk(2, dim=-1)[1]),
        probe=root_probe(probe, lower, theta, pair, batch=at.batch, needed=needed, graph=at.graph),
    )
