"""Plan of lower steps K and adjoint steps N for a wanted accuracy, before any is taken.

For gradient descent with step size alpha and conjugate gradients (theory.md, section 2); with

    c1 = lam12 + rJ V + s (lam22 + rH V),                   s = L12/mu,
    q = max(|1 - alpha mu|, |1 - alpha L|)                  contraction of one descent step,
    ch_N = 2 tau^N/(1 + tau^(2N)),  tau = (sqrt(kappa) - 1)/(sqrt(kappa) + 1)   (Chebyshev),

the formulas are this library's own, not the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hypergrad.constants import Constants, Known, check_known, conclude, number, require
from hypergrad.errors import InputError
from hypergrad.guards import require_finite

# Beyond it a float64 no longer tells a whole number from the next.
_MOST: Final = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps for ``GradientDescent(max_steps=, step_size=)`` and ``CG(max_steps=, rtol=0)``.

    Attributes:
        steps: K, enough for every task.
        max_steps: N, enough for every task.
        step_size: alpha.
        bound: ``(*batch,)`` the a-priori bound on each task's error with these, at most the
            accuracy that was asked for; Proven only if every constant is.
    """

    steps: int
    max_steps: int
    step_size: float
    bound: Known


def plan(
    constants: Constants,
    accuracy: float,
    *,
    distance: Known,
    adjoint_distance: Known | None = None,
    step_size: float | None = None,
) -> Plan:
    """The K and N after which every task's hypergradient is within ``accuracy`` of the exact one.

    theory.md, section 2: ``K0 = ceil(ln(2 c1 D0/delta)/-ln q)`` and, for conjugate gradients that
    start from zero, ``N0 = ceil(ln(2 + 4 s b*/delta)/-ln tau)``; from elsewhere, by the same
    argument, ``N0 = ceil(ln(sqrt(kappa) (2 + 4 L12 |v0 - v*|/delta))/-ln tau)``.

    A guarantee, not a forecast: conjugate gradients usually need fewer steps, and end at the
    number of distinct eigenvalues (n at most) in any case.

    Args:
        constants: with smoothness and adjoint_norm, and upper_gradient for a start from zero.
        accuracy: delta, on the Euclidean norm of each task's error.
        distance: D0, an upper bound on ``|phi0 - phi*|``. ``|d g/d phi|(phi0)/mu`` is one if mu
            bounds H from below on the whole segment from phi0 to phi* (a mu measured at phi0 or
            phi* alone does not). The length of a way to a point that is not converged is none,
            it is short of it by up to ``|d g/d phi|/mu`` there: add that. Proven only if derived.
        adjoint_distance: a bound on ``|v0 - v*|``; None means that v0 = 0.
        step_size: alpha, in (0, 2/L); 1/L by default, which also stands an L underestimated by
            less than a factor of 2 (where 2/(mu + L), the fastest, would diverge).

    Raises:
        InputError: a constant is missing, accuracy or step_size is out of range, or more steps than
            2^53 are needed.
        NotFiniteError: a task's bound overflows.
    """
    if not 0 < accuracy < math.inf:
        raise InputError(f"plan got accuracy={accuracy}; it must be positive and finite.")
    _check_distances(distance, adjoint_distance)
    rates = _Rates.of(constants, step_size)
    descent = _steps(2 * rates.c1 * number(distance) / accuracy, rates.descent)
    if adjoint_distance is None:
        b = number(require(constants, "upper_gradient", "a start of the adjoint from zero"))
        goal = 2 + 4 * rates.s * b / accuracy
    else:
        error = number(constants.coupling) * number(adjoint_distance)
        goal = rates.root * (2 + 4 * error / accuracy)
    steps, max_steps = descent, max(1, _steps(goal, rates.chebyshev))
    bound = a_priori_bound(
        constants,
        steps=steps,
        max_steps=max_steps,
        step_size=rates.step_size,
        distance=distance,
        adjoint_distance=adjoint_distance,
    )
    return Plan(steps=steps, max_steps=max_steps, step_size=rates.step_size, bound=bound)


def a_priori_bound(
    constants: Constants,
    *,
    steps: int,
    max_steps: int,
    step_size: float,
    distance: Known,
    adjoint_distance: Known | None = None,
) -> Known:
    """Guarantee of K descent steps and N adjoint steps: ``(*batch,)`` (theory.md, Theorem A).

    From v0 = 0, ``c1 q^K D0 + s ch_N (b* + lam22 q^K D0)``; from any v0,
    ``c1 q^K D0 + L12 min(1, sqrt(kappa) ch_N) (|v0 - v*| + (lam22 + rH V) q^K D0/mu)``.

    Args:
        constants: with smoothness and adjoint_norm, and upper_gradient for a start from zero.
        steps: K.
        max_steps: N.
        step_size: alpha, in (0, 2/L).
        distance: D0, a bound on ``|phi0 - phi*|``.
        adjoint_distance: a bound on ``|v0 - v*|``; None means that v0 = 0.

    Raises:
        InputError: a constant is missing, or a number of steps or step_size is out of range.
        NotFiniteError: a task's bound overflows, which bounds nothing.
    """
    _check_distances(distance, adjoint_distance)
    if not (0 <= steps <= _MOST and 0 <= max_steps <= _MOST):
        raise InputError(
            f"a_priori_bound got steps={steps}, max_steps={max_steps}; neither can be "
            "negative, or above 2^53."
        )
    rates = _Rates.of(constants, step_size)
    lam22, rH = number(constants.upper_smoothness), number(constants.hessian_lipschitz)
    mu, V = number(constants.strong_convexity), number(_adjoint_norm(constants))
    left = rates.q**steps * number(distance)  # |phi_K - phi*|
    power = torch.exp(-rates.chebyshev) ** max_steps
    chebyshev = 2 * power / (1 + power**2)
    if adjoint_distance is None:
        b = require(constants, "upper_gradient", "a start of the adjoint from zero")
        solve = rates.s * chebyshev * (number(b) + lam22 * left)
        premises = (b, distance)
    else:
        factor = (rates.root * chebyshev).clamp(max=1)
        away = number(adjoint_distance) + (lam22 + rH * V) * left / mu
        solve = number(constants.coupling) * factor * away
        premises = (adjoint_distance, distance)
    value = rates.c1 * left + solve
    require_finite(value, "the a-priori bound", per_task=True)
    return conclude(value, *rates.premises, *premises)


def plan_warm(
    constants: Constants,
    *,
    upper_step_size: float,
    step_size: float | None = None,
) -> tuple[int, int]:
    """The K and N of one upper step that let warm starts of phi and v converge exactly.

    theory.md, Theorem 2: keep each task's phi and v from one upper step to the next, use all tasks
    in each, take ``upper_step_size = eta <= 1/L_F``, and

        K0 = ceil(ln max(9, 18 eta c1 s)/-ln q),
        N0 = ceil(ln(2 sqrt(kappa) max(4, 8 eta L12 l_v))/-ln tau),
        l_v = (lam12 + lam22 s + (rH_t + rH s) V)/mu.

    Then ``mean_t |grad F(theta_t)|^2 <= (8/3) ((F_0 - F_T)/eta + z_0^2)/T``, without a floor,
    while cold starts with any fixed K and N stall at their bias. The constants must hold wherever
    theta goes, V included, and are those of the worst task.

    Args:
        constants: with smoothness, adjoint_norm and hessian_lipschitz_theta.
        upper_step_size: eta.
        step_size: alpha, in (0, 2/L); 1/L by default.

    Returns:
        K and N.

    Raises:
        InputError: a constant is missing, a step size is out of range, or more steps than 2^53 are
            needed.
    """
    if not 0 < upper_step_size < math.inf:
        raise InputError(
            f"plan_warm got upper_step_size={upper_step_size}; it must be positive and finite."
        )
    rates = _Rates.of(constants, step_size)
    V = number(_adjoint_norm(constants))
    rH = number(constants.hessian_lipschitz)
    rH_t = number(require(constants, "hessian_lipschitz_theta", "plan_warm"))
    lam12, lam22 = number(constants.upper_coupling), number(constants.upper_smoothness)
    moved = lam12 + lam22 * rates.s + (rH_t + rH * rates.s) * V
    l_v = moved / number(constants.strong_convexity)
    descent = (18 * upper_step_size * rates.c1 * rates.s).clamp(min=9)
    adjoint = (8 * upper_step_size * number(constants.coupling) * l_v).clamp(min=4)
    steps = _steps(descent, rates.descent)
    return max(1, steps), max(1, _steps(2 * rates.root * adjoint, rates.chebyshev))


@dataclass(frozen=True, slots=True, eq=False)
class _Rates:
    """Constants that every formula here is made of."""

    step_size: float
    q: Tensor
    descent: Tensor  # -ln q
    chebyshev: Tensor  # -ln tau
    root: Tensor  # sqrt(kappa)
    s: Tensor  # Lipschitz constant of phi*(theta)
    c1: Tensor
    premises: tuple[Known, ...]

    @classmethod
    def of(cls, constants: Constants, step_size: float | None) -> _Rates:
        smoothness, adjoint_norm = _smoothness(constants), _adjoint_norm(constants)
        mu, L, V = (number(k) for k in (constants.strong_convexity, smoothness, adjoint_norm))
        largest = float(L.max())
        alpha = 1 / largest if step_size is None else step_size
        if not 0 < alpha < 2 / largest:
            raise InputError(
                f"step_size is {alpha}; gradient descent converges for step sizes in (0, 2/L), "
                f"and 2/L is {2 / largest:.3g} here."
            )
        s = number(constants.coupling) / mu
        rJ, rH = number(constants.coupling_lipschitz), number(constants.hessian_lipschitz)
        lam12, lam22 = number(constants.upper_coupling), number(constants.upper_smoothness)
        # q = max(1 - alpha mu, alpha L - 1), and not below 0 by rounding where mu = L
        decrease = torch.minimum(alpha * mu, 2 - alpha * L).clamp(max=1)
        return cls(
            step_size=alpha,
            q=1 - decrease,
            # not by a minus sign: of the least decrease above 0 the log1p is 0, and the rate not -0
            descent=torch.log1p(-decrease).abs(),
            # tau = (1 - x)/(1 + x) with x = 1/sqrt(kappa)
            chebyshev=2 * torch.atanh((mu / L).sqrt()),
            root=(L / mu).sqrt(),
            s=s,
            c1=lam12 + rJ * V + s * (lam22 + rH * V),
            premises=(
                constants.strong_convexity,
                constants.coupling,
                constants.upper_coupling,
                constants.upper_smoothness,
                constants.hessian_lipschitz,
                constants.coupling_lipschitz,
                smoothness,
                adjoint_norm,
            ),
        )


def _check_distances(distance: Known, adjoint_distance: Known | None) -> None:
    check_known(distance, "distance")
    if adjoint_distance is not None:
        check_known(adjoint_distance, "adjoint_distance")


def _smoothness(constants: Constants) -> Known:
    return require(constants, "smoothness", "an a-priori bound")


def _adjoint_norm(constants: Constants) -> Known:
    return require(constants, "adjoint_norm", "an a-priori bound")


def _steps(reduction: Tensor, rate: Tensor) -> int:
    """The least whole number of steps, each worth ``rate``, for every task's reduction.

    Raises:
        InputError: the number of steps is beyond counting.
    """
    needed = torch.where(reduction <= 1, 0.0, reduction.log() / rate)  # NaN stays what it is
    # an infinite rate reaches any reduction that is a number, but takes a step to do so
    needed = torch.where((reduction > 1) & reduction.isfinite() & rate.isinf(), 1.0, needed)
    most = float(needed.max().ceil())
    if not most <= _MOST:
        raise InputError(
            f"{most:.3g} steps would be needed, where at most 2^53 can be taken: the constants "
            "overflow, or ask for too much. Ask for less accuracy, or regularise the lower "
            "objective, which raises mu."
        )
    return int(most)
