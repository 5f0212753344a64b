"""The solve of a saddle's system, which falls into two: with A' and with A."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.operator import Operator
from hypergrad.linear.solution import LinearSolver, Solution, Status, verified

# what tells the more about a solve that failed comes later
_WORSE = (
    Status.CONVERGED,
    Status.DAMPED,
    Status.OUT_OF_STEPS,
    Status.STAGNATED,
    Status.INDEFINITE,
    Status.MISREPORTED,
    Status.NOT_FINITE,
)


def solved(
    solver: LinearSolver,
    operator: Operator,
    rhs: Float[Tensor, "*batch n"],
    start: Float[Tensor, "*batch n"] | None,
) -> tuple[Float[Tensor, "*batch n"], Solution]:
    """Solve ``K x = b``; returns x and the verified solution that tells how it was found.

    A matrix that falls into halves is solved half by half, without the one whose right-hand side is
    zero: backward asks for ``A' b = c`` only, forward mode for ``A a = d`` only. The solution is
    then that of the half that was solved, of half the size. Where both were, in second
    derivatives, it has the x of ``A' b = c``, and the worse of the two in each task.
    """
    if operator.halves is None:
        whole = verified(solver.solve(operator, rhs, start), operator, rhs)
        return whole.x, whole
    c, d = rhs.chunk(2, dim=-1)
    guess = None if start is None else start.chunk(2, dim=-1)[1]  # of v, where u is
    halves = operator.halves
    forward = None
    if bool((d != 0).any()):
        forward = verified(solver.solve(halves.forward, d, None), halves.forward, d)
    if forward is not None and not bool((c != 0).any()):
        return torch.cat([forward.x, torch.zeros_like(c)], dim=-1), forward
    backward = verified(solver.solve(halves.transposed, c, guess), halves.transposed, c)
    if forward is None:
        return torch.cat([torch.zeros_like(d), backward.x], dim=-1), backward
    return torch.cat([forward.x, backward.x], dim=-1), _joined(backward, forward)


def _joined(first: Solution, second: Solution) -> Solution:
    order = torch.tensor([_WORSE.index(status) for status in Status], device=first.x.device)
    worse = order[second.status] > order[first.status]
    return replace(
        first,
        status=torch.where(worse, second.status, first.status),
        residual=torch.maximum(first.residual, second.residual),
        curvature=torch.minimum(first.curvature, second.curvature),
        steps=torch.maximum(first.steps, second.steps),
        matvecs=first.matvecs + second.matvecs,
    )
