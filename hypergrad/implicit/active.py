"""Active sets of solutions at bounds or kinks: are they right, and do they stay?

A solution of a constrained or non-smooth problem is the smooth stationary point of a reduced
objective on its active manifold (docs/theory.md, section 12). The reduced objective sees neither a
bound whose multiplier has the wrong sign, nor how near the active set is to a change. Both are
measured here, from the slacks that the sets and penalties report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Size, Tensor

from hypergrad.linear.solution import Solution
from hypergrad.linear.vectors import norm, ratio
from hypergrad.tree import Tree, detach, flatten, fresh_leaf, leaves, like, names

# Rounding of a slack, in units of eps sqrt(n) times the scale that the slack is relative to.
_ROUNDING = 10.0
# A slack may be off by so many times the estimated error of phi: the estimate is from the curvature
# that the adjoint solve has met, and a multiplier turns faster than phi. Chosen, not derived: at
# degenerate points of the verification suite the factor is 5 at most.
_SAFE = 10.0

# of a g that can't be differentiated twice: differences would move phi off its bounds and kinks
AT_KINKS = (
    "ProximalGradient(step_size=..., newton_after=None) finds phi by first derivatives only, and "
    "Detached() gives it without a derivative"
)

Slacks: TypeAlias = tuple[list[Tensor], list[Tensor]]
"""For each leaf of phi, tensors like it: slacks of multipliers, in units of the gradient, and
distances to the next bound or kink, in units of phi. Infinite where there is none; negative where
the condition is violated."""


@runtime_checkable
class NonSmooth(Protocol):
    """A condition whose solutions may lie at bounds or kinks; an objective like any other."""

    def __call__(self, theta: Any, phi: Any) -> Tensor:
        """The values of the reduced objective, ``(*batch,)``, stationary at the solution."""
        ...

    def smooth(self, theta: Any, phi: Any) -> Tensor:
        """The values of the smooth part g, ``(*batch,)``."""
        ...

    def prox(self, theta: Any, phi: Any, step: Tensor) -> Any:
        """The proximal map of the rest, ``step (*batch,)`` long; a projection for a set."""
        ...

    def slacks(self, theta: Any, phi: Any, gradient: Any) -> Slacks:
        """The slacks at phi, given the gradient of the smooth part there, a tree like phi."""
        ...


def is_non_smooth(lower: object) -> TypeGuard[NonSmooth]:
    """True if a condition is a NonSmooth; quicker than ``isinstance`` of a protocol."""
    return hasattr(lower, "slacks") and hasattr(lower, "prox") and hasattr(lower, "smooth")


@dataclass(frozen=True, slots=True, eq=False)
class ActiveSet:
    """The evidence on the active set: what holds phi at bounds and kinks, for each task.

    Attributes:
        slacks: ``(*batch, n)`` distance of each coordinate from changing sides. If it is held: the
            multiplier of its bound, or the distance of its subgradient to the limit, relative to
            the size of the gradient's terms. If it is free: the distance to its next bound or
            kink, relative to ``|phi|``. Negative where the sign is wrong; infinite where nothing
            can change.
        residual: ``(*batch,)`` length of the least subgradient, relative to the gradient's terms: 0
            at a solution.
        accuracy: ``(*batch,)`` least margin that phi's accuracy can decide, by estimate; at least
            rounding.
        rounding: least margin that this precision can decide.
    """

    slacks: Float[Tensor, "*batch n"]
    residual: Float[Tensor, "*batch"]
    accuracy: Float[Tensor, "*batch"]
    rounding: float

    @property
    def margin(self) -> Float[Tensor, "*batch"]:
        """The least slack: a smaller relative change of phi and of the gradient changes no side."""
        if not self.slacks.shape[-1]:
            return torch.full_like(self.residual, torch.inf)
        return self.slacks.amin(dim=-1)

    @property
    def wrong(self) -> Bool[Tensor, "*batch"]:
        """True where a multiplier has the wrong sign, by more than phi's accuracy explains."""
        return self.margin < -self.accuracy

    @property
    def decided(self) -> Bool[Tensor, "*batch"]:
        """True where the active set is firm: its margin exceeds what phi's accuracy can decide."""
        return self.margin > self.accuracy

    def words(self, phi: Tree) -> str:
        """Describe what is wrong with the worst task's active set; empty if nothing is."""
        bad = ~self.decided
        if not bool(bad.any()):
            return ""
        margin = torch.where(bad, self.margin, torch.inf).reshape(-1)
        worst = int(margin.argmin())
        least, accuracy = float(margin[worst]), float(self.accuracy.reshape(-1)[worst])
        slacks = self.slacks.reshape(-1, self.slacks.shape[-1])[worst]
        limit = -accuracy if least < -accuracy else accuracy
        where = _places(slacks <= limit, phi, bad.shape)
        task = f", task {worst}," if bad.numel() > 1 else ""
        of = "the one task" if bad.numel() == 1 else f"{int(bad.sum())} of {bad.numel()} tasks"
        if least < -accuracy:
            return (
                f"phi is no solution of the condition, its active set is wrong in {of}: at the "
                f"worst{task} {where} is held at a bound or kink that the gradient pushes it away "
                f"from, by {-least:.1e} of the gradient's terms. Solve the lower level by "
                "solvers.ProximalGradient, or further."
            )
        if least <= self.rounding:
            return (
                f"phi has no derivative, only one-sided ones, in {of}: at the worst{task} {where} "
                "changes sides at this very theta (zero margin). What was returned is the "
                "derivative with those coordinates held as phi's values have them."
            )
        return (
            f"the active set is undecided in {of}: at the worst{task} {where} is within "
            f"{least:.1e} (relative) of changing sides, and phi is known to about {accuracy:.1e}. "
            "Solve the lower level further; set a coordinate that belongs at a bound to it exactly."
        )


def active_set(
    condition: NonSmooth,
    theta: Any,
    phi: Any,
    *,
    solution: Solution,
    slope: Float[Tensor, "*batch"],
    size: Float[Tensor, "*batch"],
) -> ActiveSet:
    """The evidence on the active set at phi, for two gradients of the smooth part.

    phi's error is estimated as ``|r| / (mu |phi|)`` with r the reduced gradient and mu the least
    curvature that the adjoint solve has met, and a slack's as ten times that. That is not proven:
    directions which the solve has not met may be flatter.

    Args:
        condition: whose active set it is.
        theta: the upper variable.
        phi: the point that was differentiated.
        solution: solution of the adjoint system.
        slope: ``(*batch,)`` ``|r|``.
        size: ``(*batch,)`` the norm of the adjoint system's right-hand side.
    """
    theta, phi = detach(theta), detach(phi)
    batch = slope.shape
    here = smooth_gradient(condition, theta, phi)
    terms = _terms(here, smooth_gradient(condition, theta, _half(phi)), batch)
    with torch.no_grad():
        multipliers, distances = condition.slacks(theta, phi, like(phi, here))
        relative = [
            torch.minimum(
                ratio(flatten([multiplier], batch), term[..., None]),
                ratio(flatten([distance], batch), norm(flatten([leaf], batch))[..., None]),
            )
            for multiplier, distance, leaf, term in zip(
                multipliers, distances, leaves(phi), terms, strict=True
            )
        ]
        slacks = torch.cat(relative, dim=-1)
        violated = norm(flatten(multipliers, batch).clamp(max=0.0))
        least = torch.hypot(slope, violated)
        length = norm(flatten(leaves(phi), batch))
        curvature = torch.minimum(solution.curvature.abs(), ratio(size, norm(solution.x)))
        rounding = _ROUNDING * torch.finfo(slope.dtype).eps * max(slacks.shape[-1], 1) ** 0.5
        accuracy = _SAFE * ratio(slope, curvature * length)
        # a derivative that nobody asked for can't be wrong
        accuracy = torch.where(size > 0, accuracy, 0.0).clamp(min=rounding)
    return ActiveSet(
        slacks=slacks,
        residual=ratio(least, norm(torch.stack(terms, dim=-1))),
        accuracy=accuracy,
        rounding=rounding,
    )


def smooth_gradient(condition: NonSmooth, theta: Any, phi: Any) -> list[Tensor]:
    """The gradient of the smooth part in phi, as phi's leaves, cut off from any graph."""
    probes = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        values = condition.smooth(theta, like(phi, probes)).sum()
    found = torch.autograd.grad(values, probes, allow_unused=True, materialize_grads=True)
    return [part.detach() for part in found]


def _half(phi: Any) -> Any:
    return like(phi, (leaf / 2 for leaf in leaves(phi)))


def _terms(here: Sequence[Tensor], half: Sequence[Tensor], batch: Size) -> list[Tensor]:
    """For each leaf, ``|r| + 2 |r - h|``: the size of the terms that cancel at a solution.

    r is the gradient at phi, h the one at phi/2; see ``Tolerance`` of the lower solvers.
    """
    found = []
    for left, right in zip(here, half, strict=True):
        apart = norm(flatten([left - right], batch))
        # phi/2 may be outside of the objective's domain
        size = norm(flatten([left], batch))
        found.append(size + 2 * torch.where(apart.isfinite(), apart, 0.0))
    return found


def _places(mask: Tensor, phi: Tree, batch: Size) -> str:
    """The coordinates of one task in words: ``phi['w'][3, 1]``, at most four of them."""
    found: list[str] = []
    start, flat = 0, mask.reshape(-1)
    for label, leaf in zip(names(phi, "phi"), leaves(phi), strict=True):
        shape = leaf.shape[len(batch) :]
        part = flat[start : start + shape.numel()].reshape(shape)
        start += shape.numel()
        for place in part.nonzero().tolist():
            found.append(f"{label}{place}" if place else label)
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return ", ".join(found[:4]) + more
