"""Distance that theta may move until the active set changes, for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

import torch
from jaxtyping import Float, Int
from torch import Size, Tensor

from hypergrad.errors import InputError
from hypergrad.guards import noting
from hypergrad.implicit.active import NonSmooth, is_non_smooth
from hypergrad.implicit.attach import attach
from hypergrad.implicit.derivatives import Problem, derivative
from hypergrad.implicit.watch import Watch, warn
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import norm, ratio
from hypergrad.objective import Objective
from hypergrad.tree import Phi, Theta, detach, flatten, leaves, like, unflatten


@dataclass(frozen=True, eq=False)
class Reach(Generic[Theta]):
    """The nearest theta at which each task's active set changes, to first order.

    Attributes:
        distance: ``(*batch,)`` ``|theta' - theta|`` to it, over all leaves of theta together.
        direction: like theta, each leaf with the tasks' dimensions before its own: the unit
            direction to it.
        coordinate: ``(*batch,)`` entry of the task's phi, laid out flat, that changes sides.
    """

    distance: Float[Tensor, "*batch"]
    direction: Theta
    coordinate: Int[Tensor, "*batch"]


def reach(
    condition: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    solver: LinearSolver | None = None,
    watch: Watch = warn,
) -> Reach[Theta]:
    """The distance to the next change of the active set, as theta moves and phi follows.

    Slacks (multipliers of active bounds, distances to the others) are functions of theta through
    the solution, and :func:`attach` differentiates them: slack i vanishes at the distance
    ``slack_i / |d slack_i/d theta|`` to first order, and the least of these counts. Where the
    solution is piecewise affine in theta this is exact: a shorter step in any direction leaves the
    active set as it is, a longer one in ``direction`` changes it (docs/theory.md, section 12).
    So it is for quadratic g, with theta linear in g's linear part, in bounds or in strengths.

    Of an entry with two sides (free between two bounds, or a zero of :class:`L1`) both are looked
    at: where theta moves bounds or strengths, the one that is farther now may come first.

    Costs an adjoint solve for each entry of each phi, all of them as one batch.

    Args:
        condition: :class:`Constrained`, :class:`Composite` or one of your own.
        theta: upper variable.
        phi: the solution, leading dimensions = tasks.
        solver: solver of the adjoint systems; None chooses.
        watch: is given their certificate.

    Raises:
        InputError: the condition has no active set, or an argument can't be used.
    """
    if not is_non_smooth(condition):
        raise InputError(
            f"reach got a {type(condition).__name__}, which has no active set; give a Constrained "
            "or a Composite."
        )
    theta, phi = detach(theta), detach(phi)
    points = leaves(theta)
    with torch.no_grad():
        batch = condition(theta, phi).shape

    def slacks(vector: Tensor) -> Tensor:
        moved = like(theta, unflatten(vector, points))
        found = attach(condition, moved, phi, solver=solver, watch=watch)
        return _slacks(condition, moved, found, batch)

    at = flatten([leaf.reshape(-1) for leaf in points], Size())
    sizes = slacks(at).detach()
    if not sizes.numel():
        raise InputError("reach got a phi without entries: no active set can change.")
    rows: Tensor = torch.func.jacrev(slacks)(at)  # (*batch, 3 n, q)
    slopes = norm(rows)
    distances = torch.where(sizes.isinf(), torch.inf, ratio(sizes, slopes))
    distance, index = distances.min(dim=-1)
    row = rows.gather(-2, index[..., None, None].expand(*batch, 1, at.numel()))[..., 0, :]
    length = norm(row)[..., None]
    towards = -row / torch.where(length > 0, length, 1.0)
    direction = unflatten(towards, [leaf.expand((*batch, *leaf.shape)) for leaf in points])
    return Reach(distance, like(theta, direction), index % (sizes.shape[-1] // 3))


def _slacks(condition: NonSmooth, theta: Any, phi: Any, batch: Size) -> Tensor:
    """Multipliers, distances and farther sides, ``(*batch, 3 n)``, as differentiable values."""
    problem = Problem(condition.smooth, detach(theta), detach(phi), noting())
    parts = derivative(problem, (*leaves(theta), *leaves(phi)), [])
    gradient = like(phi, parts[problem.counts[0] :])
    multipliers, distances = condition.slacks(theta, phi, gradient)
    far = [torch.full_like(leaf, torch.inf) for leaf in leaves(phi)]
    if hasattr(condition, "far_sides"):  # a condition of one's own need not
        far = condition.far_sides(theta, phi, gradient)
    return torch.cat([flatten(part, batch) for part in (multipliers, distances, far)], dim=-1)
