"""Damping that is picked from the curvature met: the rule of theory.md, section 8."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.operator import LinearMap
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import dot, norm

# Steps of Lanczos's method that look for the extreme curvatures once a negative one was met.
LOOKS = 20

Damped: TypeAlias = Callable[[Tensor, Tensor], Solution]
"""``(rhs, damping)``: solve ``(A + damping I) x = rhs``, a damping for each task, ``(*batch,)``."""


def damped_if_indefinite(
    solve: Damped, product: LinearMap, rhs: Float[Tensor, "*batch n"], *, rtol: float, steps: int
) -> Solution:
    """The undamped solution, but for tasks that met negative curvature that of a damped system.

    Args:
        solve: solves the system with a given damping, in at most ``steps`` steps.
        product: A.
        rhs: b.
        rtol: tolerance of a solve.
        steps: N, the steps that one solve may take.
    """
    damping = rhs.new_zeros(rhs.shape[:-1])
    solution = solve(rhs, damping)
    bad = solution.status == Status.INDEFINITE
    if not bool(bad.any()):
        return solution
    least, largest = extremes(product, torch.where(bad[..., None], rhs, 0.0), min(LOOKS, steps))
    solution = replace(
        solution,
        curvature=torch.where(bad, solution.curvature.minimum(least), solution.curvature),
        matvecs=solution.matvecs + min(LOOKS, steps, rhs.shape[-1]),
    )
    damping = torch.where(bad, share(steps, rtol, rhs.dtype) * largest, 0.0)
    while bool(bad.any()):
        damping = torch.where(bad, damping.maximum(-2 * solution.curvature), damping)
        every = bool(bad.all())
        found = solve(rhs if every else torch.where(bad[..., None], rhs, 0.0), damping)
        solution = _joined(solution, found, bad, every=every)
        # the quotient that stopped this solve is about -damping or less, so that the next damping
        # is about twice this one; anything else is no curvature of A, but a preconditioner's
        bad = (solution.status == Status.INDEFINITE) & (-2 * solution.curvature > damping)
    return solution


def share(steps: int, rtol: float, dtype: torch.dtype) -> float:
    """The least damping, relative to A's largest eigenvalue, with which CG has steps enough.

    With ``damping >= 2 m`` for A's least eigenvalue -m, the damped system's condition number is at
    most ``2 (L / damping + 1)``. It may be s^2 with ``s log(2 s / rtol) <= 2 N``, and
    ``s = 2 N / log(2 N / rtol)`` is such a one. No less than sqrt(eps), where rounding takes half
    of the digits.
    """
    s = 2 * steps / math.log(2 * steps / rtol)
    return max(2 / (max(s * s, 4.0) - 2), math.sqrt(torch.finfo(dtype).eps))


def extremes(
    product: LinearMap, start: Float[Tensor, "*batch n"], steps: int
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The least and the largest Ritz value after so many steps of Lanczos's method.

    Three vectors of memory, and no reorthogonalisation: rounding may repeat Ritz values, and moves
    none outside of the spectrum by more than itself (Paige 1980). A Krylov space that ends early
    adds zeros, which are not negative.
    """
    eps, unknowns = torch.finfo(start.dtype).eps, start.shape[-1]
    length = norm(start)
    before, at = torch.zeros_like(start), _unit(start, length, torch.zeros_like(length))
    del start  # as long as any vector here
    diagonal: list[Tensor] = []
    beside: list[Tensor] = [torch.zeros_like(length)]
    for _ in range(min(steps, unknowns)):
        image = product(at)
        diagonal.append(dot(at, image))
        size = norm(image)
        image = torch.addcmul(image, diagonal[-1][..., None], at, value=-1)
        image.addcmul_(beside[-1][..., None], before, value=-1)
        length = norm(image)
        # below this, what is left of the image is the rounding of the product
        rounding = unknowns * eps * size
        before, at = at, _unit(image, length, rounding)
        del image  # before the next product, at which memory peaks
        beside.append(torch.where(length > rounding, length, 0.0))
    projected = torch.diag_embed(torch.stack(diagonal, dim=-1))
    if len(diagonal) > 1:
        off = torch.diag_embed(torch.stack(beside[1:-1], dim=-1), offset=1)
        projected = projected + off + off.mT
    values = torch.linalg.eigvalsh(projected)
    return values[..., 0], values[..., -1]


def _unit(vector: Tensor, length: Tensor, least: Tensor) -> Tensor:
    """The vector over its length; zero where that is no more than ``least``."""
    there = (length > least)[..., None]
    return (vector / torch.where(there, length[..., None], 1.0)).masked_fill_(~there, 0.0)


def _joined(old: Solution, new: Solution, solved: Tensor, *, every: bool) -> Solution:
    """The new solution for the tasks that it solved; all that was met and spent for them."""
    if not every:
        pick = (new.x, old.x), (new.status, old.status), (new.residual, old.residual)
        x = torch.where(solved[..., None], *pick[0])
        status, residual = torch.where(solved, *pick[1]), torch.where(solved, *pick[2])
        new = replace(new, x=x, status=status, residual=residual)
    return replace(
        new,
        curvature=torch.minimum(old.curvature, new.curvature),
        steps=old.steps + new.steps,
        matvecs=old.matvecs + new.matvecs,
    )
