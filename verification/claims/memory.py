"""Bytes kept for backward do not grow with K. Those of iterative differentiation do.

Counted are the bytes of the distinct storages that autograd has saved and not let go, at their
peak over the lower solve and the backward pass (theory.md, section 7). On a problem whose own
pieces have p or q numbers, all of these are exact statements about integers:

    Implicit    the same bytes for every K
    Unrolled    affine in K with a slope of at least one phi, 8 b q bytes
    Implicit    affine in p and in q, without a term in p q: mixed second differences vanish, so
                that the growth is O(max(p, q))

An integer that is not what it should be is off by at least 1: the tolerance is 1/2.
"""

import weakref
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from hypergrad import (
    CG,
    Adjoint,
    Bilevel,
    GradientDescent,
    Implicit,
    Truncated,
    Unrolled,
    argmin,
    curvature,
)
from verification.claims.evidence import Evidence, worst
from verification.subjects.bug import Bug, Kind

CG_STEPS = 3
STEPS = (1, 2, 3, 4, 8, 16, 32)
STEP_SIZE = 0.2  # H <= 1 + 1/2: below 2/L


@runtime_checkable
class Differentiator(Protocol):
    """An implementation of a differentiable lower solve, by the method or by unrolling."""

    def __call__(
        self,
        problem: Bilevel[torch.Tensor, torch.Tensor],
        theta: torch.Tensor,
        phi0: torch.Tensor,
        *,
        steps: int,
        unrolled: bool,
    ) -> torch.Tensor:
        """phi_K of shape (b, q), attached to theta's graph.

        Args:
            problem: f and g.
            theta: requires grad.
            phi0: start of descent.
            steps: K.
            unrolled: True to differentiate the steps, False the stationarity at their end.
        """
        ...


def by_argmin(
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: torch.Tensor,
    phi0: torch.Tensor,
    *,
    steps: int,
    unrolled: bool,
) -> torch.Tensor:
    """The library's `argmin`; see `Differentiator`."""
    descent = GradientDescent(max_steps=steps, step_size=STEP_SIZE)
    # the probe of second derivatives keeps more at the first backward in a process, at no other
    exact = curvature.Hessian(probe="never")
    implicit = Implicit(CG(max_steps=CG_STEPS, rtol=0.0), curvature=exact)
    adjoint: Adjoint = Unrolled() if unrolled else implicit
    return argmin(problem.lower, theta, phi0, by=descent, adjoint=adjoint, watch=lambda _: None)


class _Kept:
    """A tensor that some graph keeps for backward; dies with the graph."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def problem_of(p: int, q: int) -> Bilevel[torch.Tensor, torch.Tensor]:
    """Both levels couple through sums, so that nothing of size p q is part of the problem."""

    def lower(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        pull = theta.sin().mean() * phi.sum(-1)
        return 0.5 * phi.square().sum(-1) + 0.5 * phi.cos().sum(-1) - pull

    def upper(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return 0.5 * phi.square().sum(-1) + 0.5 * theta.square().sum()

    return Bilevel(upper=upper, lower=lower)


def peak_bytes(
    subject: Differentiator, *, p: int, q: int, tasks: int, steps: int, unrolled: bool
) -> int:
    """Most bytes of distinct storages saved for backward at any one time."""
    alive, most = weakref.WeakSet[_Kept](), 0

    def pack(tensor: torch.Tensor) -> _Kept:
        nonlocal most
        kept = _Kept(tensor)
        alive.add(kept)
        storages = [each.tensor.untyped_storage() for each in alive]
        most = max(most, sum({s.data_ptr(): s.nbytes() for s in storages}.values()))
        return kept

    problem = problem_of(p, q)
    theta = torch.linspace(-1.0, 1.0, p, dtype=torch.float64, requires_grad=True)
    phi0 = torch.linspace(0.5, 2.0, tasks * q, dtype=torch.float64).reshape(tasks, q)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        phi = subject(problem, theta, phi0, steps=steps, unrolled=unrolled)
        problem.upper(theta, phi).mean().backward()
    return most


def _exact(error: int, scale: int, where: str) -> Evidence:
    return Evidence("saved bytes", float(abs(error)), 0.5, float(scale), where)


def _comparisons(subject: Differentiator, seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 9])
    p, q, tasks = (int(rng.integers(low, high)) for low, high in ((3, 40), (3, 40), (1, 4)))

    def bytes_of(steps: int, *, unrolled: bool, p: int = p, q: int = q) -> int:
        return peak_bytes(subject, p=p, q=q, tasks=tasks, steps=steps, unrolled=unrolled)

    at = f"p = {p}, q = {q}, b = {tasks}"
    method = [bytes_of(steps, unrolled=False) for steps in STEPS]
    for steps, count in zip(STEPS[1:], method[1:], strict=True):
        where = f"the method: {count} bytes at K = {steps}, {method[0]} at K = 1; {at}"
        yield _exact(count - method[0], method[0], where)

    unrolled = [bytes_of(steps, unrolled=True) for steps in STEPS]
    slope = unrolled[1] - unrolled[0]
    for steps, count in zip(STEPS[2:], unrolled[2:], strict=True):
        line = unrolled[0] + slope * (steps - 1)
        where = f"unrolled: {count} bytes at K = {steps}, {line} on the line of K = 1, 2; {at}"
        yield _exact(count - line, line, where)
    least = 8 * tasks * q
    yield _exact(max(0, least - slope), least, f"unrolled: {slope} bytes for each step; {at}")

    # bytes at p, 2p, 3p by q, 2q, 3q: affine in each, and no p q
    grid = {
        (i, j): bytes_of(4, unrolled=False, p=i * p, q=j * q) for i in (1, 2, 3) for j in (1, 2, 3)
    }
    for i, j in grid:
        corner = grid[1, 1]
        fit = corner + (i - 1) * (grid[2, 1] - corner) + (j - 1) * (grid[1, 2] - corner)
        yield _exact(
            grid[i, j] - fit,
            fit,
            f"the method: {grid[i, j]} bytes at {i} p, {j} q; {fit} affine; {at}",
        )


def saved_bytes(subject: Differentiator, seed: int) -> Evidence:
    """Saved bytes constant in K for the method, affine for Unrolled, O(max(p, q)) in p, q."""
    return worst(_comparisons(subject, seed))


def _always_unrolled(
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: torch.Tensor,
    phi0: torch.Tensor,
    *,
    steps: int,
    unrolled: bool,
) -> torch.Tensor:
    """The method keeps every step's graph."""
    return by_argmin(problem, theta, phi0, steps=steps, unrolled=True)


def _cut_short(
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: torch.Tensor,
    phi0: torch.Tensor,
    *,
    steps: int,
    unrolled: bool,
) -> torch.Tensor:
    """Unrolled keeps the last two steps only, under its full name."""
    if not unrolled:
        return by_argmin(problem, theta, phi0, steps=steps, unrolled=False)
    descent = GradientDescent(max_steps=steps, step_size=STEP_SIZE)
    return argmin(problem.lower, theta, phi0, by=descent, adjoint=Truncated(steps=2))


def _dense_cross(
    problem: Bilevel[torch.Tensor, torch.Tensor],
    theta: torch.Tensor,
    phi0: torch.Tensor,
    *,
    steps: int,
    unrolled: bool,
) -> torch.Tensor:
    """A p x q block for each task stays in the graph."""
    phi = by_argmin(problem, theta, phi0, steps=steps, unrolled=unrolled)
    block = theta[:, None] * phi.detach()[..., None, :]
    return phi + 0 * (block * block).sum(-2)


KIND = Kind(
    "differentiable lower solve",
    by_argmin,
    (
        Bug("B01", "the method keeps every step", "saved bytes", _always_unrolled),
        Bug("B02", "unrolled keeps two steps only", "saved bytes", _cut_short),
        Bug("B03", "a p x q block is kept", "saved bytes", _dense_cross),
    ),
)
