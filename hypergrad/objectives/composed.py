"""A loss of a model's outputs: the structure that Gauss-Newton curvature needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True, kw_only=True)
class Composed(Generic[Theta, Phi]):
    """``g(theta, phi) = loss(theta, model(theta, phi)) + penalty(theta, phi)`` for each task.

    Attributes:
        model: outputs of any shape that begins with the tasks' dimensions.
        loss: convex in the outputs; one value for each task.
        penalty: convex in phi (an L2 regulariser, say); one value for each task.
    """

    model: Callable[[Theta, Phi], Tensor]
    loss: Callable[[Theta, Tensor], Tensor]
    penalty: Objective[Theta, Phi] | None = None

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """The values of g."""
        values = self.loss(theta, self.model(theta, phi))
        return values if self.penalty is None else values + self.penalty(theta, phi)
