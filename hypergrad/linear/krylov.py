"""The loop of the Krylov solvers: sweeps of a recurrence, each verified by a true residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import norm, scale_of
from hypergrad.settings import check_max_steps, check_tolerances

# torch takes several times as long with an enum as with its number
CONVERGED, OUT_OF_STEPS = Status.CONVERGED.value, Status.OUT_OF_STEPS.value
STAGNATED, DAMPED = Status.STAGNATED.value, Status.DAMPED.value
INDEFINITE, NOT_FINITE = Status.INDEFINITE.value, Status.NOT_FINITE.value

# The recurrence's residual and the true one, b - A x, agree while their distance is below this
# share of the latter; past it the recurrence no longer describes x (theory.md section 6, rule b).
_TRUST = 0.1

# A sweep whose products differ from the exact ones reduces the true residual by some factor only,
# however small its recurrence's gets. The next one stops at this share of what that factor leaves.
_BEYOND = 0.1


def check_stopping(
    name: str, rtol: object, atol: object, max_steps: object, check_every: int | None
) -> None:
    """Raise for stopping rules that make no sense, or never stop."""
    check_tolerances(name, rtol, atol)
    if max_steps is not None:
        check_max_steps(name, max_steps, least=1)
    if rtol == 0 and atol == 0 and max_steps is None:
        raise InputError(
            f"{name} got no tolerance and no max_steps: it would not know when to stop."
        )
    if check_every is None:
        if max_steps is None:
            raise InputError(f"{name} got check_every=None, which needs max_steps: give both.")
    elif check_every < 1:
        raise InputError(f"{name} got check_every={check_every}; it must be at least 1, or None.")


@dataclass(slots=True, eq=False)
class Run:
    """The state of one solve. The tensors are the run's own: a sweep may write into them."""

    x: Tensor  # (*batch, n) iterate
    residual: Tensor  # (*batch, n) b - A x, true between sweeps, recursive within
    curvature: Tensor  # (*batch,) least p'Ap / p'p
    steps: Tensor  # (*batch,)
    ended: Tensor  # (*batch,) the recurrence's opinion, a Status

    @classmethod
    def begin(cls, b: Tensor, start: Tensor | None, product: Operator) -> Run:
        """At ``start``, or at zero; a task with b = 0 always begins (and ends) at zero.

        b becomes the run's own, so that no solve holds a vector that it does not need.
        """
        if start is None:
            x = product.zeros(b)
        else:
            x = torch.where((b == 0).all(dim=-1, keepdim=True), 0.0, start)
        steps = b.new_zeros(b.shape[:-1], dtype=torch.int64)
        return cls(
            x=x,
            residual=b if start is None else b - product.exact(x),
            curvature=b.new_full(b.shape[:-1], torch.inf),
            steps=steps,
            ended=torch.full_like(steps, Status.OUT_OF_STEPS),
        )

    def end(self, began: Tensor, active: Tensor, fault: Tensor, kind: Status) -> None:
        """Record how the tasks of a sweep ended.

        Args:
            began: tasks of this sweep.
            active: the tasks among them that used up their steps.
            fault: positive where no fault was met, NaN where a product was.
            kind: status that a fault means.
        """
        ended = torch.full_like(self.ended, Status.CONVERGED)
        ended.masked_fill_(fault <= 0, kind)
        ended.masked_fill_(fault.isnan(), Status.NOT_FINITE)
        ended.masked_fill_(active, Status.OUT_OF_STEPS)
        self.ended = torch.where(began, ended, self.ended)


Sweep: TypeAlias = Callable[[LinearMap, Run, Tensor, Tensor, int], None]
"""``(product, run, goal, active, budget)``: take at most ``budget`` steps for each task in
``active``, until its recurrence says that ``|b - A x| <= goal``, and say by :meth:`Run.end` how
they ended, or directly where there is one task. Of several, one that stops gets a zero direction,
so that its x stays and its products stay finite."""


def all_ended(active: Tensor, step: int, check_every: int | None) -> bool:
    """True if no task is left. Read after every ``check_every`` steps, as the host waits for it."""
    return check_every is not None and (step + 1) % check_every == 0 and not bool(active.any())


def iterate(
    sweep: Sweep,
    product: Operator,
    rhs: Tensor,
    start: Tensor | None,
    *,
    rtol: float,
    atol: float,
    max_steps: int | None,
    check_every: int | None,
    damping: float | Tensor = 0.0,
) -> Solution:
    """Sweep, recompute the residual, and sweep again while the two differ and that helps.

    Args:
        sweep: the method.
        product: ``A + damping I``.
        rhs: b.
        start: first iterate.
        rtol: tolerance on ``|b - (A + damping I) x|`` relative to ``|b|``.
        atol: absolute tolerance on it.
        max_steps: at most this many steps; None means 10 n.
        check_every: None: sweep once, and let the host wait for nothing.
        damping: shift that ``product`` has added to A, a number or ``(*batch, 1)``; the solution's
            residual is that of A itself.
    """
    limit = 10 * rhs.shape[-1] if max_steps is None else max_steps
    scale = scale_of(rhs)
    b = rhs / scale
    size = norm(b)
    floor = torch.finfo(rhs.dtype).eps * size
    goal = torch.clamp(rtol * size, min=floor)
    if atol:
        goal = goal.maximum(atol / scale[..., 0])

    run = Run.begin(b, None if start is None else start / scale, product)
    del b
    true = norm(run.residual)
    again = true > goal
    budget, aim = limit, goal
    while check_every is None or (bool(again.any()) and budget > 0):
        sweep(product, run, aim, again, budget)
        # in place, since memory peaks here, too
        run.residual = torch.div(rhs, scale, out=run.residual).sub_(product.exact(run.x))
        true, previous = norm(run.residual), true
        # The recurrence claims convergence, and the true residual is above the goal by more than
        # the two may differ: the recurrence has parted from x. Where the residual is below half
        # of what it was, another sweep may help.
        parted = (run.ended == CONVERGED) & (true * (1 - _TRUST) > goal)
        again = parted & (true < 0.5 * previous)
        if check_every is None:
            again = torch.zeros_like(again)  # there is no other sweep
            break
        if not again.any():
            break
        aim = goal.maximum(_BEYOND * true * torch.where(again, true / previous, 0.0))
        budget = limit - int(run.steps.max())

    # a filled tensor, and none that is copied to the device, for which the host would wait
    each = damping[..., 0] if isinstance(damping, Tensor) else torch.full_like(true, damping)
    damped = isinstance(damping, Tensor) or damping > 0
    undamped = norm(run.residual + damping * run.x) if damped else true
    # A residual that the recurrence and the recomputation agree on to _TRUST may be that much
    # above the goal and still be the one that was asked for.
    status = run.ended
    proven = (status == INDEFINITE) | (status == NOT_FINITE)
    status.masked_fill_(again, OUT_OF_STEPS)  # what was left to do, when they ran out
    within = ~proven & (true * (1 - _TRUST) <= goal)
    status.masked_fill_(status == CONVERGED, STAGNATED)
    status.masked_fill_(within, CONVERGED)
    if damped:
        status.masked_fill_(within & (undamped * (1 - _TRUST) > goal), DAMPED)
    status.masked_fill_(~true.isfinite(), NOT_FINITE)
    return Solution(
        x=product.scaled(run.x, scale),
        status=status,
        residual=undamped / torch.where(size > 0, size, 1.0),
        curvature=run.curvature - each,
        steps=run.steps,
        matvecs=product.matvecs,
        damping=each,
    )
