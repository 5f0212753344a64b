"""Anderson acceleration of a fixed-point map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.equation import Equation
from hypergrad.errors import InputError
from hypergrad.linear.vectors import norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.minimum import Minimum
from hypergrad.lower.residual import Residual, goal_of, require_fixed_point
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta


@dataclass(frozen=True, slots=True, kw_only=True)
class Anderson:
    """Fixed-point steps from the combination of the last iterates with the least residual.

    Anderson 1965, type II in the form of Walker and Ni 2011: with the last differences ``dX`` of
    iterates and ``dF`` of residuals ``f = phi - T(phi)``, each task's ``gamma`` minimises
    ``|f - dF gamma|``, and ``phi <- phi - s f - (dX - s dF) gamma``. For a linear T and enough
    depth that is GMRES; T need not contract. Two vectors are kept for each of ``depth``, whatever
    the number of steps.

    The small least-squares problem is solved by the eigenvalues of ``dF' dF`` of unit columns,
    without those that are rounding: differences that have become parallel do no harm. Where a step
    changes nothing, as after a step by which GMRES would gain nothing, the iteration stands still
    until the difference that holds it is the oldest and goes (theory.md, section 13).

    Attributes:
        depth: number of differences that are kept.
        damping: s, in (0, 1]: how far to go towards T.
        max_steps: at most this many steps; exactly so many without a tolerance.
        rtol: tolerance on ``|phi - T|`` relative to the size of its terms at the start, see
            :class:`Tolerance`; 0 for none.
        atol: absolute tolerance on it; 0 for none.
    """

    depth: int = 5
    damping: float = 1.0
    max_steps: int = 100
    rtol: float = 1e-6
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_max_steps("Anderson", self.max_steps, least=1)
        check_max_steps("Anderson", self.depth, least=1, name="depth")
        check_tolerances("Anderson", self.rtol, self.atol)
        if not 0 < self.damping <= 1:
            raise InputError(f"Anderson got damping={self.damping}; it must be in (0, 1].")

    def find(self, equation: Equation[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Find each task's fixed point from ``phi``.

        Raises:
            InputError: the equation is no fixed point's, or can't be used.
            NotFiniteError: the iteration diverged.
        """
        require_fixed_point(equation, self)
        residual, tolerance = Residual(equation, theta, phi), Tolerance(self.rtol, self.atol)
        x, f, size = residual.x, residual.f, norm(residual.f)
        goal = goal_of(tolerance, residual)
        # differences in rows, (*batch, depth, n); zero where there is none yet
        moved = x.new_zeros(*x.shape[:-1], min(self.depth, self.max_steps), x.shape[-1])
        changed = torch.zeros_like(moved)
        active, steps = (size > goal) | (not tolerance), 0
        while steps < self.max_steps and bool(active.any()):
            gamma = _least_squares(changed, f)
            mixed = self.damping * f + _combined(moved - self.damping * changed, gamma)
            there = torch.where(active[..., None], x - mixed, x)
            image = torch.where(active[..., None], residual.at(there), f)
            slot = steps % moved.shape[-2]
            # What rounding alone changed has no direction. In a long stall rounding grows by
            # |I - A| a step, until it gives one by chance. A threshold of sqrt(eps) |f| would
            # keep that out, and was measured in float32: it harms. Contractions that leave more
            # than 1 - sqrt(eps) a step are then never accelerated, and stalls are never left,
            # which the chance direction ends.
            noise = 10 * torch.finfo(x.dtype).eps * (norm(there) + norm(image))
            known = (norm(image - f) > noise)[..., None]
            moved[..., slot, :] = torch.where(known, there - x, 0.0)
            changed[..., slot, :] = torch.where(known, image - f, 0.0)
            x, f, size, steps = there, image, norm(image), steps + 1
            active = active & ((size > goal) | (not tolerance))
        return residual.ended(self, x, size, tolerance.converged(size, goal), steps)


def _combined(
    rows: Float[Tensor, "*batch depth n"], weights: Float[Tensor, "*batch depth"]
) -> Float[Tensor, "*batch n"]:
    return (weights[..., None, :] @ rows)[..., 0, :]


def _least_squares(
    rows: Float[Tensor, "*batch depth n"], f: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch depth"]:
    """The weights of the combination of rows nearest to f, the shortest within rounding."""
    length = norm(rows)
    safe = torch.where(length > 0, length, 1.0)
    unit = rows / safe[..., None]
    gram, right = unit @ unit.mT, (unit @ f[..., None])[..., 0]
    # a task that diverged must not stop the others
    finite = gram.isfinite().all(dim=-1).all(dim=-1) & right.isfinite().all(dim=-1)
    values, basis = torch.linalg.eigh(torch.where(finite[..., None, None], gram, 0.0))
    largest = values.amax(dim=-1, keepdim=True)
    known = values > 10 * rows.shape[-2] * torch.finfo(f.dtype).eps * largest
    inside = (basis.mT @ torch.where(finite[..., None], right, 0.0)[..., None])[..., 0]
    inside = torch.where(known, inside / torch.where(known, values, 1.0), 0.0)
    weights: Tensor = (basis @ inside[..., None])[..., 0]
    return weights / safe
