"""Hypergradients as exact as their own size asks for: both loops go on until it is certified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

import torch

from hypergrad.constants import Constants, Known, conclude
from hypergrad.errors import HypergradError, InputError
from hypergrad.implicit.pullback import Hypergradient, hypergradient
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import norm
from hypergrad.lower.minimum import LowerSolver
from hypergrad.objective import Bilevel
from hypergrad.tree import Phi, Theta, leaves, like, unflatten


@dataclass(frozen=True, eq=False)
class Certified(Generic[Theta, Phi]):
    """A hypergradient with the bound on its error, and what the next upper step starts from.

    Attributes:
        hypergradient: value, gradient and certificate at ``phi``.
        phi: the lower variable where it was taken; the next start.
        v: each task's adjoint, like phi; the next ``start``.
        error: ``()`` bound on ``|grad - exact gradient|``, Proven if the constants are.
        share: ``error / |grad|``, at most nu if it was accepted.
        rounds: number of times that both loops were continued.
    """

    hypergradient: Hypergradient[Theta]
    phi: Phi
    v: Phi
    error: Known
    share: float
    rounds: int


class AccuracyError(HypergradError, ArithmeticError):
    """The share of error that was asked for was not reached; ``best`` is what came closest.

    Near a stationary point of F this is how a run ends: the hypergradient becomes as small as
    the error that the precision leaves, and no share of it can be certified.

    Attributes:
        best: the round with the least share of error.
    """

    def __init__(self, message: str, best: Certified[Any, Any]) -> None:
        super().__init__(message)
        self.best = best

    def __reduce__(self) -> tuple[type[AccuracyError], tuple[str, Certified[Any, Any]]]:
        """Both arguments: an exception is built again from its message otherwise."""
        return type(self), (str(self), self.best)


# Truncated conjugate gradients may raise the residual from one round to the next while the error
# falls, and rounding lets an exhausted certificate jitter; neither sets a new record ten rounds on.
_PATIENCE = 10


def solve_adaptively(
    problem: Bilevel[Theta, Phi],
    theta: Theta,
    phi: Phi,
    *,
    constants: Constants,
    nu: float,
    by: LowerSolver,
    solver: LinearSolver,
    start: Phi | None = None,
    max_rounds: int = 1000,
) -> Certified[Theta, Phi]:
    """Continue both loops, warm, until ``mean_i bound_i <= nu |h|``, h the hypergradient.

    Gradient descent with such hypergradients and step size ``eta <= (1 - nu^2)/L_F`` converges to
    exact stationarity, ``mean_t |grad F(theta_t)|^2 <= 2 (F_0 - F_T)/(eta T)``, whatever it starts
    from (theory.md, Theorem 3: all tasks in each step, and the bound is Theorem B's). A fixed
    number of steps from a cold start does not: it stalls at its bias.

    Args:
        problem: f and g.
        theta: upper variable.
        phi: start of the lower solver; ``Certified.phi`` of the upper step before, say.
        constants: constants of the problem at this theta. Where one is merely estimated the
            result's ``error`` is too, and nothing is guaranteed.
        nu: the share of ``|h|`` that its error may have, in (0, 1).
        by: the lower solver of one round, a few steps, continued from where it was.
        solver: the adjoint solver of one round, continued from where it was; conjugate gradients
            with a few steps, or any.
        start: a first guess of each task's v, like phi; ``Certified.v`` of the step before, say.
        max_rounds: at most this many rounds.

    Returns:
        The first round that was accepted.

    Raises:
        InputError: an argument, an objective or a constant can't be used.
        NotFiniteError: a value, a gradient or a product is NaN or infinite.
        AccuracyError: the bound stopped falling, or max_rounds were not enough.
    """
    if not 0 < nu < 1:
        raise InputError(
            f"solve_adaptively got nu={nu}; the share must be in (0, 1): at 1 and above the "
            "hypergradient need not even point uphill, and 0 is never reached."
        )
    if max_rounds < 1:
        raise InputError(f"solve_adaptively got max_rounds={max_rounds}; it needs at least one.")
    best: Certified[Theta, Phi] | None = None
    least, since = torch.inf, 0
    for rounds in range(1, max_rounds + 1):
        phi = by.minimise(problem.lower, theta, phi).phi
        answer = hypergradient(problem, theta, phi, solver=solver, start=start)
        start = like(phi, unflatten(answer.certificate.adjoint.x, leaves(phi)))
        bounds = answer.certificate.bound(constants)
        error = torch.as_tensor(bounds.value).mean()
        size = norm(torch.cat([leaf.reshape(-1) for leaf in leaves(answer.grad)]))
        share = 0.0 if float(error) == 0 else float(error / size)
        latest = Certified(answer, phi, start, conclude(error, bounds), share, rounds)
        if share <= nu:
            return latest
        best = latest if best is None or share < best.share else best
        least, since = (float(error), 0) if float(error) < least else (least, since + 1)
        if since == _PATIENCE:
            break
    assert best is not None  # there was a round
    reason = (
        f"the bound has not fallen for {_PATIENCE} rounds, so that this precision is exhausted or "
        "a solver makes no progress; theta may be stationary, else use float64, a larger nu or a "
        "smaller step size"
        if since == _PATIENCE
        else f"{max_rounds} rounds were not enough; allow more, or more steps in each"
    )
    raise AccuracyError(
        f"an error of at most nu = {nu:.1e} of the hypergradient was asked for, and the best "
        f"certified, in round {best.rounds}, is {best.share:.1e} of it: {reason}.",
        best,
    )
