"""``Constrained``: a minimiser of a smooth objective within a convex set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from torch import Tensor

from hypergrad.conditions.parts import (
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
from hypergrad.equation import Equation
from hypergrad.errors import InputError
from hypergrad.implicit.active import NonSmooth, Slacks
from hypergrad.implicit.entrywise import Entrywise
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta, Tree


@by_value
@dataclass(frozen=True, eq=False)
class Constrained(Generic[Theta, Phi]):
    """``phi`` minimises ``g(theta, phi)`` within a convex set, which theta may move.

    Takes the lower objective's place in :func:`attach`, :func:`argmin` and :class:`Bilevel`. A
    bound is active where phi equals it to rounding. The certificate's ``active`` says whether the
    multipliers of active bounds have the right sign, and how far the active set is from a change.

    Called, it returns the values of the reduced objective (docs/theory.md, section 12): at a
    feasible phi those of g. g is also evaluated at phi/2 and phi/4, for the scale of its curvature.

    Attributes:
        g: smooth, one value for each task.
        within: a set, for every leaf of phi, or a tree like phi of sets, None for a free leaf.
    """

    g: Objective[Theta, Phi]
    within: Tree

    def __post_init__(self) -> None:
        require_objective("Constrained", self.g)
        wanted = "sets, such as NonNegative(), Box(0.0, 1.0) or Simplex(), alone or in a tree"
        check_parts("Constrained", self.within, "within", (Set,), wanted)

    def __call__(self, theta: Theta, phi: Phi) -> Tensor:
        """The values of the reduced objective, ``(*batch,)``."""
        return reduced(self.g, parts_of(self.within, phi, "within"), theta, phi)

    def smooth(self, theta: Theta, phi: Phi) -> Tensor:
        """The values of g, ``(*batch,)``."""
        return self.g(theta, phi)

    def prox(self, theta: Theta, phi: Phi, step: Tensor) -> Phi:
        """The nearest point of the set, whatever the step."""
        projected: Phi = proximal(parts_of(self.within, phi, "within"), theta, phi, step)
        return projected

    def slacks(self, theta: Theta, phi: Phi, gradient: Phi) -> Slacks:
        """Multipliers of active bounds and distances to the others."""
        return slacks_of(parts_of(self.within, phi, "within"), theta, phi, gradient)

    def far_sides(self, theta: Theta, phi: Phi, gradient: Phi) -> list[Tensor]:
        """Slacks of entries' farther sides, leaf by leaf; infinite where there is one side."""
        return far_sides_of(parts_of(self.within, phi, "within"), theta, phi, gradient)

    def entrywise(self, theta: Theta, phi: Phi) -> list[Entrywise]:
        """Bounds and kinks of each leaf's entries; raises where a part ties entries together."""
        return entrywise_of(parts_of(self.within, phi, "within"), theta, phi)


def require_objective(owner: str, g: object) -> None:
    """Raise unless g is a function of its own, neither a class nor a condition.

    A condition's values are smooth only on what is active at phi: a solver would never leave it.

    Raises:
        InputError: naming the owner.
    """
    if isinstance(g, type) or not callable(g):
        given = f"the class {g.__name__}" if isinstance(g, type) else f"a {type(g).__name__}"
        raise InputError(
            f"{owner} got {given} as g; give a function of (theta, phi) that returns one value "
            "for each task."
        )
    if isinstance(g, NonSmooth | Equation):
        raise InputError(
            f"{owner} got a {type(g).__name__} as g; give its smooth objective, and all bounds and "
            "kinks in one condition: a tree like phi of sets and penalties, or a set of your own."
        )
