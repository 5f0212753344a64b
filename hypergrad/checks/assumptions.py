"""Assumptions of the theory, put to a user's problem as far as a trajectory can show them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypergrad.checks.curvature import NOT_CONVEX, NOT_UNIQUE
from hypergrad.checks.estimates import Estimate
from hypergrad.checks.findings import Finding, Verdict, skip, state
from hypergrad.checks.trajectory import Trajectory

# A constant counts as growing if it grew by this factor over the trajectory ...
GROWTH = 10.0
# ... and its last step's share of that growth, in the logarithm, is at least this part of the
# average step's: one that levels off has a last step that is small beside the first ones.
LEVEL = 0.25

FINITE = "finite values and derivatives"
CONVEX = "g strongly convex (mu > 0)"
INVERSE = "mu bounded away from 0 (1/mu)"
ADJOINT = "adjoint bounded (V)"

_REGULARISE = "regularise the lower objective, or keep theta in a bounded set (reparameterise it)"
_RESCALE = "bound or rescale the upper loss"
_BOUNDED = (
    ("gradient of g Lipschitz (L)", "smoothness", _REGULARISE),
    ("coupling J bounded (L12)", "coupling", _REGULARISE),
    ("Hessian Lipschitz (rH)", "hessian_lipschitz", _REGULARISE),
    ("coupling Lipschitz (rJ)", "coupling_lipschitz", _REGULARISE),
    ("gradient of f Lipschitz (lam22)", "upper_smoothness", _RESCALE),
    ("df/dtheta Lipschitz (lam12)", "upper_coupling", _RESCALE),
    ("df/dphi bounded (b*)", "upper_gradient", _RESCALE),
)


def judge(trajectory: Trajectory, estimates: Sequence[Estimate]) -> list[Finding]:
    """All assumptions of theory.md, sections 2 and 3, in the order in which they matter.

    Args:
        trajectory: the visits.
        estimates: constants at each upper iterate, fewer if derivatives were not finite.
    """
    findings = [_defined(trajectory)]
    if not estimates:
        return findings
    findings.append(_strongly_convex(estimates))
    if findings[-1].verdict is Verdict.OK:
        findings.append(_bounded(INVERSE, [1 / found.mu for found in estimates], _REGULARISE))
    findings += [
        _bounded(name, [getattr(found, key) for found in estimates], remedy)
        for name, key, remedy in _BOUNDED
    ]
    if all(found.mu_end > found.rounding for found in estimates):
        sizes = [found.adjoint_norm for found in estimates]
        findings.append(_bounded(ADJOINT, sizes, _REGULARISE))
    else:
        reason = "can't be known: H is not positive definite at every minimiser"
        findings.append(skip(ADJOINT, reason))
    return findings


def _defined(trajectory: Trajectory) -> Finding:
    if trajectory.broken:
        return state(
            FINITE,
            False,
            f"after {len(trajectory.visits)} upper iterates: {trajectory.broken}",
            "take smaller upper steps, or regularise the lower objective: it may have no minimiser",
        )
    worst = max(visit.stationarity for visit in trajectory.visits)
    return state(FINITE, True, f"|dg/dphi| <= {worst:.1e} where lower solves end")


def _strongly_convex(estimates: Sequence[Estimate]) -> Finding:
    """Each iterate by itself: what is small beside the L of another iterate is not singular."""
    negative = [found for found in estimates if found.mu < -found.rounding]
    worst = (
        min(negative, key=lambda found: found.mu)
        if negative
        else max(estimates, key=lambda found: found.condition)
    )
    at_end = worst.mu_end <= worst.rounding
    where = "at a minimiser" if at_end else "between phi0 and a minimiser"
    found = f"{where}: eigenvalue {worst.mu:.2g}, L = {worst.smoothness:.3g}"
    if negative:
        nearer = "regularise the lower objective, or start nearer to its minimiser, as the bounds "
        nearer += "hold where g is convex on the whole way from phi0"
        return state(CONVEX, False, f"negative curvature {found}", NOT_CONVEX if at_end else nearer)
    if worst.mu <= worst.rounding:
        return state(CONVEX, False, f"singular Hessian {found}", NOT_UNIQUE)
    least, top = min(e.mu for e in estimates), max(e.smoothness for e in estimates)
    words = f"mu = {least:.3g}, L = {top:.3g}, kappa = {top / least:.3g}: the worst of "
    return state(CONVEX, True, f"{words}{3 * len(estimates)} points")


def _bounded(name: str, values: Sequence[float], remedy: str) -> Finding:
    words = f"{values[0]:.3g} at first, {values[-1]:.3g} at last, {max(values):.3g} at most"
    growing = grows(values)
    words += "; grows along the trajectory, and does not level off" if growing else ""
    return state(name, not growing, words, remedy)


def grows(values: Sequence[float]) -> bool:
    """True if a constant grew by `GROWTH` without levelling off.

    A heuristic, and named as such in the documentation: no finite trajectory proves growth.
    """
    if len(values) < 3 or not (values[0] > 0 and values[-2] > 0 and values[-1] > 0):
        return False
    total, last = math.log(values[-1] / values[0]), math.log(values[-1] / values[-2])
    return total >= math.log(GROWTH) and last >= LEVEL * total / (len(values) - 1)
