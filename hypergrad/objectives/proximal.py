"""A loss pulled towards a centre: the lower level of implicit MAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.tree import Phi, flatten, leaves


@dataclass(frozen=True)
class Proximal(Generic[Phi]):
    """``g(centre, phi) = loss(phi) + strength/2 |phi - centre|^2`` for each task.

    theta is the centre: a tree like phi, with or without the tasks' leading dimensions (a centre
    without them is shared). With the centre as meta-parameters this is implicit MAML (Rajeswaran
    et al. 2019); the cross block is ``-strength I``.

    Attributes:
        loss: the objective without the proximal term, a value for each task.
        strength: strength of the pull; above the loss's most negative curvature g is strongly
            convex.
    """

    loss: Callable[[Phi], Tensor]
    strength: float

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise InputError(f"Proximal got strength={self.strength}; it must be positive.")

    def __call__(self, theta: Phi, phi: Phi) -> Tensor:
        """The values of g."""
        values = self.loss(phi)
        apart = [leaf - centre for leaf, centre in zip(leaves(phi), leaves(theta), strict=True)]
        return values + self.strength / 2 * flatten(apart, values.shape).square().sum(dim=-1)
