"""CG's sweep for a single system on the CPU, where a number may be read at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hypergrad.linear.krylov import Run
from hypergrad.linear.preconditioners import scaled
from hypergrad.linear.solution import LinearMap, Status
from hypergrad.linear.vectors import dot


def sweep_single(
    inverse: LinearMap | None,
    product: LinearMap,
    run: Run,
    goal: Tensor,
    active: Tensor,
    budget: int,
) -> None:
    """The sweep of ``cg.py`` for one task, its recurrences in Python's numbers; see Sweep.

    Beside its product a step then takes six operations and three looks, in place of twenty-two
    operations, which are most of the time where the system is small. What overflows is infinite,
    as it is in ``cg.py``: torch would raise for a number beyond its dtype's, and Python for a power
    beyond its own.
    """
    x, r = run.x, run.residual
    kind = torch.finfo(r.dtype)
    limit = float(goal) * float(goal)  # squared by ** it would raise
    if inverse is None:
        z = r
    else:
        inverse, z = scaled(inverse, r)
    inner = torch.dot if r.ndim == 1 else dot
    p, rho = z.clone(), float(inner(r, z))
    least, unknown = math.inf, 0.0
    taken, ended = 0, Status.OUT_OF_STEPS
    for step in range(budget):
        ap = product(p)
        pap, pp = float(inner(p, ap)), float(inner(p, p))
        ratio = _held(pap / pp if pp else pap * math.inf, kind)
        least = min(least, ratio)  # passes over NaN
        margin = ratio - unknown  # cg.py's
        if not (margin > 0 and 0 < rho < math.inf):  # so for NaN
            finite = not math.isnan(margin) and math.isfinite(rho)
            ended = Status.INDEFINITE if finite else Status.NOT_FINITE
            break
        if step == 0:
            unknown = kind.eps * ratio
        alpha = _held(rho / pap, kind)
        x.add_(p, alpha=alpha)
        r.add_(ap, alpha=-alpha)
        del ap  # before the next product, at which memory peaks
        taken += 1
        square = float(inner(r, r))
        if square <= limit:
            ended = Status.CONVERGED
            break
        old = rho
        if inverse is None:
            z, rho = r, square
        else:
            z = inverse(r)
            rho = float(inner(r, z))
        p = torch.add(z, p, alpha=_held(rho / old, kind))
    run.curvature = run.curvature.clamp(max=least)
    run.steps += taken
    run.ended.fill_(ended)


def _held(number: float, kind: torch.finfo) -> float:
    """The number as the precision would hold it, but for rounding."""
    return math.copysign(math.inf, number) if abs(number) > kind.max else number
