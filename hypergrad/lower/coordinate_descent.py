"""Coordinate descent on quadratic models, for bounds and kinks that hold each entry by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.implicit.active import AT_KINKS
from hypergrad.implicit.entrywise import Entrywise, Separable, is_separable
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.cholesky import dense
from hypergrad.linear.operator import LinearMap
from hypergrad.linear.vectors import dot, norm
from hypergrad.lower.descent import Tolerance
from hypergrad.lower.line_search import Point, Probe
from hypergrad.lower.minimum import Minimum
from hypergrad.objective import Objective, evaluate
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta, detach, flatten, leaves

_DECREASE = 1e-4  # Armijo's share of the predicted decrease
_HALVINGS = 40
# A model is solved until its subgradient is a twentieth of the one that it started from. The next
# one has the same Hessian as long as the true subgradient then is a tenth or less.
_SOLVED, _SLOW = 1 / 20, 1 / 10
_STILL = 4.0  # roundings of phi that a sweep may move it by, and counts as standing still


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateDescent:
    """Proximal Newton steps, whose quadratic models are solved entry by entry.

    For :class:`Composite` and :class:`Constrained` with what holds each entry by itself: L1,
    ElasticNet, Box, NonNegative, in any tree of them. g must be convex. The model of g at a point
    is minimised by sweeps over phi's entries, each of which goes to its own minimiser, as glmnet
    does (Friedman, Hastie and Tibshirani 2010). A backtracking step towards the model's minimiser
    follows (Tseng and Yun 2009). A sweep visits only entries that are off their own
    minimiser, and the Hessian's columns are formed when an entry is first visited, one product for
    each. They serve the next models, too, as long as steps made with them shorten the least
    subgradient to a tenth: of a quadratic g they are formed once.

    An entry's visit is a handful of small operations, for all tasks at once; a step of
    ``ProximalGradient`` is a few dozen for all entries. It pays for some ten entries and squares
    (``python -m benchmarks.conditions.coordinates``), and needs neither step size nor curvature.

    Attributes:
        rtol: tolerance on the least subgradient relative to ``|d g/d phi| + |H phi|`` at the start,
            see :class:`Tolerance`.
        atol: absolute tolerance on it. With both 0 a task ends where rounding ends its progress.
        max_steps: at most this many sweeps.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        check_tolerances("CoordinateDescent", self.rtol, self.atol)
        check_max_steps("CoordinateDescent", self.max_steps, least=0)

    def require(self, lower: object) -> None:
        """Raise for an objective that has neither bounds nor kinks.

        Raises:
            InputError: naming what was given.
        """
        if not is_separable(lower):
            raise InputError(
                "CoordinateDescent minimises a Composite or a Constrained whose penalties and sets "
                f"hold each entry by itself, and got a {type(lower).__name__}; wrap it, as in "
                "Composite(g, L1(0.1)), or use LBFGS or Newton for a smooth objective and "
                "solvers.ProximalGradient() for any other condition with bounds or kinks."
            )

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Minimise each task's objective from ``phi``, its entries brought within their bounds.

        Raises:
            InputError: the objective can't be used, a set or penalty ties entries together, or an
                entry's curvature is negative.
            NotFiniteError: the descent diverged.
        """
        self.require(lower)
        assert is_separable(lower)
        theta, phi = detach(theta), detach(phi)
        batch = evaluate(lower, theta, phi).shape
        run = _Run(lower, theta, phi, _flat(lower.entrywise(theta, phi), batch))
        here = run.probe.at(run.within(flatten(leaves(phi), batch)))
        size, tolerance = run.size(here), Tolerance(self.rtol, self.atol)
        goal = tolerance.goal(here.gradient, lambda: run.probe.at(here.x / 2).gradient)
        columns: _Columns | None = None
        active, steps = size > goal, 0
        trusted = torch.zeros_like(active)
        while steps < self.max_steps and bool(active.any()):
            fresh, columns = columns is None, columns or run.columns(here)
            inside = torch.where(trusted, goal / 2, torch.maximum(goal / 2, _SOLVED * size))
            left = self.max_steps - steps
            least, taken = _minimised(columns, run.held, here, active, inside, left)
            there, found = run.step(here, least, active, size)
            after = run.size(there)
            # a model that predicted the subgradient at its minimiser is worth solving to the end
            trusted = found & (after <= inside)
            slow = active & ~(found & ((after <= _SLOW * size) | (after <= goal)))
            # with the Hessian of this very point no further: that is rounding
            active = active & (found | (not fresh))
            here, size, steps = there, after, steps + taken
            active = active & (size > goal)
            columns = None if bool(slow.any()) else columns
        require_finite(size, "the subgradient where CoordinateDescent ended", per_task=True)
        # without a tolerance, rounding is the goal
        converged = tolerance.converged(size, goal) if tolerance else ~active
        return Minimum(
            phi=run.probe.tree(here.x), stationarity=size, converged=converged, steps=steps
        )


class _Run(Generic[Phi]):
    """The condition at one theta, as functions of phi as a vector."""

    def __init__(self, lower: Separable, theta: object, phi: Phi, held: Entrywise) -> None:
        self._lower, self._theta, self.held = lower, theta, held
        self.probe: Probe[object, Phi] = Probe(lower.smooth, theta, phi)

    def within(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.held.low, self.held.high)

    def size(self, point: Point) -> Tensor:
        """The length of the least subgradient, ``(*batch,)``."""
        return norm(self.held.subgradient(point.x, point.gradient))

    def columns(self, point: Point) -> _Columns:
        constant = [False] * len(leaves(self._theta))
        phi = self.probe.tree(point.x)
        at = Linearisation(self._lower.smooth, self._theta, phi, needed=constant, instead=AT_KINKS)
        return _Columns(at.product, at.gradient)

    def step(
        self, here: Point, least: Tensor, active: Tensor, size: Tensor
    ) -> tuple[Point, Bool[Tensor, "*batch"]]:
        """Each task's step towards a model's minimiser, by halving from 1; and which took one.

        A length is acceptable if the objective decreases as Armijo asks, ``size`` being the least
        subgradient at its start. Close to a solution the decrease drowns in rounding: there, if the
        objective is where it was but for rounding and the subgradient is shorter.
        """
        along = least - here.x
        before = here.values + self.held.value(here.x)
        slope = dot(here.gradient, along) + self.held.value(least) - self.held.value(here.x)
        # of a convex g it is negative, but for rounding
        slope = slope.clamp(max=0.0)
        rounding = torch.finfo(before.dtype).eps ** (2 / 3) * before.abs()
        length, pending, there = active.to(slope.dtype), active, here
        for _ in range(_HALVINGS):
            moved = self.within(here.x + length[..., None] * along)
            trial = self.probe.at(torch.where((length == 1)[..., None], least, moved))
            value = trial.values + self.held.value(trial.x)
            # False for NaN
            lower = (value <= before + _DECREASE * length * slope) & (value < before - rounding)
            level = (value <= before + rounding) & (self.size(trial) < size)
            taken = pending & (lower | level)
            there, pending = there.where(~taken, trial), pending & ~taken
            if not bool(pending.any()):
                break
            length = torch.where(pending, length / 2, length)
        return there, active & ~pending


class _Columns:
    """Columns of the Hessian at a point, formed when they are asked for."""

    def __init__(self, product: LinearMap, shaped_as: Tensor) -> None:
        self._product, self._shaped_as = product, shaped_as
        self._known: dict[int, Tensor] = {}

    def of(self, which: Sequence[int]) -> list[Float[Tensor, "n tasks"]]:
        """These columns, of all tasks.

        Raises:
            InputError: a column has a negative entry on the diagonal.
        """
        new = [index for index in which if index not in self._known]
        if new:
            found = dense(self._product, self._shaped_as, only=new)
            rows = found.reshape(-1, *found.shape[-2:]).permute(2, 1, 0).contiguous()
            for index, column in zip(new, rows, strict=True):
                self._require_convex(index, column)
                self._known[index] = column
        return [self._known[index] for index in which]

    @staticmethod
    def _require_convex(index: int, column: Tensor) -> None:
        rounding = 10 * torch.finfo(column.dtype).eps * column.abs().amax(dim=0)
        if bool((column[index] < -rounding).any()):
            raise InputError(
                f"CoordinateDescent met the curvature {float(column[index].min()):.1e} along entry "
                f"{index} of phi as a vector; it is for convex objectives. Use "
                "solvers.ProximalGradient(), and see what the adjoint's certificate says."
            )


def _minimised(
    columns: _Columns,
    held: Entrywise,
    start: Point,
    active: Bool[Tensor, "*batch"],
    goal: Float[Tensor, "*batch"],
    limit: int,
) -> tuple[Float[Tensor, "*batch n"], int]:
    """The minimisers of models ``<r, y - x> + <y - x, H (y - x)>/2`` plus what holds y, by sweeps.

    Args:
        columns: columns of H.
        held: bounds and kinks of the entries.
        start: the point x with its gradient r.
        active: tasks that take part; others stay.
        goal: length of the least subgradient.
        limit: most sweeps.

    Returns:
        The points, and sweeps taken.
    """
    # entries first, so that what belongs to one of them is contiguous
    x, slope = _turned(start.x).clone(), _turned(start.gradient).clone()
    held = Entrywise(*(_turned(part) for part in held.parts))
    busy, goal = active.reshape(-1), goal.reshape(-1)
    each = goal / max(len(x), 1) ** 0.5  # if no entry's is longer, all together meet the goal
    rounding, sweeps = _STILL * torch.finfo(x.dtype).eps, 0
    while sweeps < limit:
        short = held.subgradient(x, slope)
        busy = busy & (norm(short.mT) > goal)
        which = (busy & (short.abs() > each)).any(dim=-1).nonzero()[:, 0].tolist()
        if not which:
            break
        before, sweeps = x.clone(), sweeps + 1
        # a task that is done is held where it is
        low, high = torch.where(busy, held.low, x), torch.where(busy, held.high, x)
        _sweep(which, columns.of(which), Entrywise(held.l1, held.l2, low, high), x, slope)
        busy = busy & (norm((x - before).mT) > rounding * norm(x.mT))
    return x.mT.reshape(start.x.shape), max(sweeps, 1)


def _sweep(
    which: Sequence[int], columns: Sequence[Tensor], held: Entrywise, x: Tensor, slope: Tensor
) -> None:
    """Bring one entry after the other to its minimiser, all tasks at once; in place."""
    bends = torch.stack([column[index] for index, column in zip(which, columns, strict=True)])
    # without curvature only a bound or a kink ends the way down
    stiff = (bends + held.l2[which]).clamp(min=torch.finfo(x.dtype).tiny).unbind()
    limits = [part[which].unbind() for part in (-held.l1, held.l1, held.low, held.high)]
    points, slopes = x.unbind(), slope.unbind()
    of_entry = zip(which, columns, bends.unbind(), stiff, *limits, strict=True)
    for index, column, bend, whole, down, up, low, high in of_entry:
        here = points[index]
        # the least of up |y| + whole/2 y^2 - pull y within the bounds
        pull = torch.addcmul(slopes[index], here, bend, value=-1)
        least = torch.clamp((torch.clamp(pull, down, up) - pull) / whole, low, high)
        slope.addcmul_(column, least - here)
        here.copy_(least)


def _turned(rows: Float[Tensor, "*batch n"]) -> Float[Tensor, "n tasks"]:
    return rows.reshape(rows.shape[:-1].numel(), rows.shape[-1]).mT.contiguous()


def _flat(each: Sequence[Entrywise], batch: torch.Size) -> Entrywise:
    """Constraint or penalty on the entries of all leaves, as vectors."""
    kinds = zip(*(held.parts for held in each), strict=True)
    return Entrywise(*(flatten(kind, batch) for kind in kinds))
