"""The stationarity condition ``d g/d phi = 0``, linearised at a point by reverse-mode autodiff.

Differentiating ``d g/d phi (theta, phi*(theta)) = 0`` gives ``H dphi*/dtheta = -J'`` with
``H = d2g/dphi2`` and ``J = d2g/dtheta dphi`` (p x q). Both act on vectors by one backward pass
through the graph of the gradient, which is built once and kept as long as this object lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Generic

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.engine import filled, pulled
from hypergrad.graph import (
    INSTEAD,
    custom_among,
    explain,
    explained,
    no_dependence,
    recorded_gradient,
)
from hypergrad.guards import require_finite
from hypergrad.objective import Objective, evaluate_with_graph
from hypergrad.tree import (
    Phi,
    Theta,
    check_same_kind,
    check_tree,
    flatten,
    fresh_leaf,
    joined,
    leaves,
    like,
    unflatten,
)

_NOTHING: Final = (None, 0, ())  # no J v is kept
LONG: Final = 2**18  # entries of a gradient that is worth computing twice


class Linearisation(Generic[Theta, Phi]):
    """Gradient, Hessian products and cross products of the lower objective at ``(theta, phi)``.

    Objectives return one value for each task and tasks don't mix, so the Hessian of their sum is
    block diagonal and one product serves all tasks.

    Attributes:
        batch: the tasks' dimensions.
        values: ``(*batch,)`` g at the point.
        gradient: ``(*batch, n)`` d g/d phi at the point.
        graph: tells the graph of g from those of other objectives, for little: the number of its
            nodes and its custom functions.
    """

    batch: Size
    values: Float[Tensor, "*batch"]
    gradient: Float[Tensor, "*batch n"]
    graph: tuple[int, tuple[str, ...]]

    def __init__(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        *,
        needed: Sequence[bool] | None = None,
        twice: bool = True,
        instead: str = INSTEAD,
    ) -> None:
        """Evaluate the objective and its gradient once, and keep the gradient's graph.

        Args:
            lower: g.
            theta: upper variable; the derivatives are taken at its values.
            phi: lower variable, leading dimensions = tasks.
            needed: for each leaf of theta, whether :meth:`cross` must serve it (default: all).
            twice: true if the gradient will be differentiated; if not, no graph is kept.
            instead: the way round where g can't be differentiated twice, for the message.

        Raises:
            InputError: see :func:`hypergrad.objective.evaluate`.
            NotFiniteError: g or its gradient is NaN or infinite.
        """
        check_tree(theta, "theta")
        check_tree(phi, "phi")
        check_same_kind(theta, phi)
        needed = [True] * len(leaves(theta)) if needed is None else needed
        upper_leaves = [
            fresh_leaf(leaf, requires_grad=need)
            for leaf, need in zip(leaves(theta), needed, strict=True)
        ]
        self._theta: list[Tensor] = [
            leaf for leaf, need in zip(upper_leaves, needed, strict=True) if need
        ]
        self._phi: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(phi)]
        values, nodes = evaluate_with_graph(lower, like(theta, upper_leaves), like(phi, self._phi))
        self.batch = values.shape
        self._custom: list[str] = custom_among(nodes)
        self._instead = instead
        self.graph = len(nodes), tuple(self._custom)
        with torch.enable_grad(), explained(self._custom, instead=self._instead):
            gradients = (
                recorded_gradient(values, self._phi, self._custom, instead=instead)
                if twice
                else torch.autograd.grad(values, self._phi, torch.ones_like(values))
            )
            self._gradient = flatten(gradients, self.batch)
        self.values = values.detach()
        self._values = values if twice else self.values
        self._crossed: tuple[Tensor | None, int, Sequence[Tensor | None]] = _NOTHING
        self.gradient = self._gradient.detach()
        require_finite(self.gradient, "the lower objective's gradient d g/d phi", per_task=False)

    def product(self, vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``H v``, each task's own, by one backward pass."""
        if not self._gradient.requires_grad:  # g is linear in phi: H = 0
            return torch.zeros_like(vector)
        return joined(list(filled(self._pulled(self._phi, vector), self._phi)), self.batch)

    def final(self, vector: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """``H v`` of an answer; ``J v`` comes of the same pass, and is kept for :meth:`cross`."""
        if not (self._theta and self._gradient.requires_grad):
            return self.product(vector)
        count = len(self._phi)
        parts = self._pulled([*self._phi, *self._theta], vector)
        self._crossed = vector, vector._version, parts[count:]
        return flatten(filled(parts[:count], self._phi), self.batch)

    def cross(self, vector: Float[Tensor, "*batch n"]) -> list[Tensor]:
        """``J v`` for each needed leaf of theta, with that leaf's shape.

        If theta is shared by the tasks their contributions add up. If its leading dimensions are
        the tasks', they stay apart. Autograd's sum does either by itself.

        Raises:
            InputError: if the gradient depends on no leaf of theta.
        """
        if not self._theta:
            return []
        parts: Sequence[Tensor | None] = [None]
        (seen, version, known), self._crossed = self._crossed, _NOTHING
        if seen is vector and version == vector._version:
            parts = known
        elif self._gradient.requires_grad:
            parts = self._pulled(self._theta, vector)
        if all(part is None for part in parts):
            raise no_dependence()
        return list(filled(parts, self._theta))

    def gradient_set_aside(self) -> AbstractContextManager[None]:
        """A context in which nobody may read the gradient: a long one is freed, and computed anew.

        A solve holds a few vectors, and its products need the gradient's graph but not its values.
        Those of several leaves are a copy, in memory that no node of the graph keeps.
        """
        short = self.gradient.numel() < LONG or len(self._phi) == 1
        return nullcontext() if short or not self._values.requires_grad else self._set_aside()

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        nothing = self.gradient.new_zeros(()).expand_as(self.gradient)
        self.gradient.data = self._gradient.data = nothing
        yield
        again = pulled(self._values, self._phi, torch.ones_like(self._values))
        self.gradient.data = joined(list(filled(again, self._phi)), self.batch)

    def _pulled(self, points: Sequence[Tensor], vector: Tensor) -> Sequence[Tensor | None]:
        try:  # once a product: the context manager of the same purpose takes three calls
            return pulled(self._gradient, points, vector)
        except RuntimeError as error:
            explain(error, self._custom, self._instead)
            raise

    def tree(self, vector: Float[Tensor, "*batch n"]) -> list[Tensor]:
        """A vector as tensors with the shapes of phi's leaves."""
        return unflatten(vector, self._phi)
