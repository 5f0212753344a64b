"""``Composite``: a minimiser of a smooth objective plus a penalty with kinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from hypergrad.conditions.constrained import require_objective
from hypergrad.conditions.parts import (
    Penalty,
    Set,
    check_parts,
    entrywise_of,
    far_sides_of,
    parts_of,
    proximal,
    reduced,
    slacks_of,
)
from hypergrad.equality import by_value
from hypergrad.implicit.active import Slacks
from hypergrad.implicit.entrywise import Entrywise
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta, Tree


@by_value
@dataclass(frozen=True, eq=False)
class Composite(Generic[Theta, Phi]):
    """``phi`` minimises ``g(theta, phi) + penalty(theta, phi)``, the penalty convex with kinks.

    Takes the lower objective's place in :func:`attach`, :func:`argmin` and :class:`Bilevel`.
    Entries that are exactly zero are at a kink. The certificate's ``active`` says whether their
    subgradients are within limits, and how far from those.

    Called, it returns the values of the reduced objective (docs/theory.md, section 12): at phi
    those of g plus the penalty. g is also evaluated at phi/2 and phi/4, for the scale of its
    curvature.

    Attributes:
        g: smooth, one value for each task.
        plus: a penalty, for every leaf of phi, or a tree like phi of penalties (or sets), None for
            a leaf without.
    """

    g: Objective[Theta, Phi]
    plus: Tree

    def __post_init__(self) -> None:
        require_objective("Composite", self.g)
        wanted = "penalties, such as L1(0.1) or GroupL2(0.1), or sets, alone or in a tree"
        check_parts("Composite", self.plus, "plus", (Penalty, Set), wanted)

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """The values of the reduced objective, ``(*batch,)``."""
        return reduced(self.g, parts_of(self.plus, phi, "plus"), theta, phi)

    def smooth(self, theta: Theta, phi: Phi) -> Tensor:
        """The values of g, ``(*batch,)``."""
        return self.g(theta, phi)

    def prox(self, theta: Theta, phi: Phi, step: Tensor) -> Phi:
        """The penalty's proximal map."""
        moved: Phi = proximal(parts_of(self.plus, phi, "plus"), theta, phi, step)
        return moved

    def slacks(self, theta: Theta, phi: Phi, gradient: Phi) -> Slacks:
        """Distances of zeros' subgradients to their limits, and of the others to zero."""
        return slacks_of(parts_of(self.plus, phi, "plus"), theta, phi, gradient)

    def far_sides(self, theta: Theta, phi: Phi, gradient: Phi) -> list[Tensor]:
        """Slacks of entries' farther sides, leaf by leaf; infinite where there is one side."""
        return far_sides_of(parts_of(self.plus, phi, "plus"), theta, phi, gradient)

    def entrywise(self, theta: Theta, phi: Phi) -> list[Entrywise]:
        """Bounds and kinks of each leaf's entries; raises where a part ties entries together."""
        return entrywise_of(parts_of(self.plus, phi, "plus"), theta, phi)
