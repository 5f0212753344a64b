"""The three directions of single-loop bilevel methods, on one batch of each level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.guards import refuse_not_finite
from hypergrad.implicit.linearise import Linearisation
from hypergrad.objective import Objective, evaluate
from hypergrad.tree import Phi, Theta, flatten, fresh_leaf, leaves, like

ONE = Size()


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """Directions that theta, phi and v descend along, as vectors.

    At a solution all three are zero on average: phi minimises g, v solves ``H v = d f/d phi``, and
    the hypergradient ``d f/d theta - J v`` is zero (Dagreou et al. 2022, equations 4 to 6; their v
    has the other sign).

    Attributes:
        theta: ``d f/d theta - J v``.
        phi: ``d g/d phi``.
        v: ``H v - d f/d phi``.
    """

    theta: Float[Tensor, " p"]
    phi: Float[Tensor, " q"]
    v: Float[Tensor, " q"]


@dataclass(frozen=True, slots=True, eq=False)
class LowerParts:
    """Derivatives from one evaluation of the lower objective.

    Attributes:
        slope: ``d g/d phi``.
        product: ``H v``.
        cross: ``J v``.
    """

    slope: Float[Tensor, " q"]
    product: Float[Tensor, " q"]
    cross: Float[Tensor, " p"]


def lower_parts(lower: Objective[Theta, Phi], theta: Theta, phi: Phi, v: Tensor) -> LowerParts:
    """Gradient, Hessian product and cross product on one batch."""
    at = Linearisation(lower, theta, phi)
    return LowerParts(at.gradient, at.product(v), flatten(at.cross(v), ONE))


def slopes(
    objective: Objective[Theta, Phi], theta: Theta, phi: Phi, role: str
) -> tuple[Float[Tensor, " p"], Float[Tensor, " q"]]:
    """``(d/d theta, d/d phi)`` of an objective; zero where it does not depend on one."""
    upper = [fresh_leaf(leaf) for leaf in leaves(theta)]
    lower = [fresh_leaf(leaf) for leaf in leaves(phi)]
    value = evaluate(objective, like(theta, upper), like(phi, lower), role=role)
    parts = torch.autograd.grad(value, [*upper, *lower], materialize_grads=True)
    in_theta, in_phi = flatten(parts[: len(upper)], ONE), flatten(parts[len(upper) :], ONE)
    refuse_not_finite(in_phi, f"the {role} objective's gradient", per_task=False)
    return in_theta, in_phi


def checked(found: Directions) -> Directions:
    """The directions, none of which may be NaN or infinite.

    Raises:
        NotFiniteError: naming the direction.
    """
    refuse_not_finite(found.v, "the direction of v (H v - d f/d phi)", per_task=False)
    refuse_not_finite(found.theta, "the direction of theta (d f/d theta - J v)", per_task=False)
    return found
