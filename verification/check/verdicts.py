"""Which assumptions of the theory hold on a user's problem, as far as a trajectory can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from verification.check.estimates import Estimate
from verification.check.trajectory import Trajectory

# A constant counts as growing if it grew by this factor over the trajectory ...
GROWTH = 10.0
# ... and its last step's share of that growth, in the logarithm, is at least this part of the
# average step's: one that levels off has a last step that is small beside the first ones.
LEVEL = 0.25

CONVEX = "g strongly convex (mu > 0)"
ADJOINT = "adjoint bounded (V)"
NO_ADJOINT = "not computed at every iterate: H v = df/dphi was met with an H that is not definite"
WHY_UNKNOWN = (
    "a Lipschitz constant is a supremum over a region; the largest of finitely many quotients is "
    "never above it and may be far below. What a trajectory shows is thus a lower bound, and no "
    "proof"
)


class Verdict(Enum):
    """What is known of an assumption."""

    HOLDS = "seen to hold"
    VIOLATED = "VIOLATED"
    UNKNOWN = "cannot be known"


@dataclass(frozen=True)
class Finding:
    """One assumption.

    Attributes:
        name: of the assumption.
        verdict: what is known of it.
        evidence: what was measured, or why nothing can be.
        remedy: what to do about a violation; else empty.
    """

    name: str
    verdict: Verdict
    evidence: str
    remedy: str = ""


def judge(trajectory: Trajectory, estimates: Sequence[Estimate]) -> list[Finding]:
    """All assumptions of theory.md, sections 2 and 3, in the order in which they matter.

    Args:
        trajectory: the visits.
        estimates: one for each of them, possibly fewer where derivatives were not finite.
    """
    findings = [_defined(trajectory)]
    if not estimates:
        return findings
    findings.append(_strongly_convex(estimates))
    if findings[-1].verdict is Verdict.HOLDS:
        inverse = [1 / found.mu for found in estimates]
        findings.append(_bounded("mu bounded away from 0 (1/mu)", inverse, _REGULARISE))
    findings += [
        _bounded(name, [getattr(found, key) for found in estimates], remedy)
        for name, key, remedy in _BOUNDED
    ]
    if all(found.mu_end > found.rounding for found in estimates):
        sizes = [found.adjoint_norm for found in estimates]
        findings.append(_bounded(ADJOINT, sizes, _REGULARISE + ", or bound the loss"))
    else:
        findings.append(Finding(ADJOINT, Verdict.UNKNOWN, NO_ADJOINT))
    findings.append(Finding("bounds beyond the trajectory", Verdict.UNKNOWN, WHY_UNKNOWN))
    return findings


_REGULARISE = "regularise the lower objective, or keep theta in a bounded set (reparameterise it)"
_BOUNDED = (
    ("gradient of g Lipschitz (L)", "smoothness", _REGULARISE),
    ("coupling J bounded (L12)", "coupling", _REGULARISE),
    ("Hessian Lipschitz (rH)", "hessian_lipschitz", _REGULARISE),
    ("coupling Lipschitz (rJ)", "coupling_lipschitz", _REGULARISE),
    ("gradient of f Lipschitz (lam22)", "upper_smoothness", "bound or rescale the upper loss"),
    ("df/dtheta Lipschitz (lam12)", "upper_coupling", "bound or rescale the upper loss"),
)


def _defined(trajectory: Trajectory) -> Finding:
    name = "finite values and derivatives"
    count = len(trajectory.visits)
    if trajectory.broken:
        return Finding(
            name,
            Verdict.VIOLATED,
            f"after {count} upper iterates: {trajectory.broken}",
            "take smaller upper steps, or regularise the lower objective: it may have no minimiser",
        )
    worst = max(visit.stationarity for visit in trajectory.visits)
    return Finding(name, Verdict.HOLDS, f"at {count} upper iterates; |dg/dphi| <= {worst:.1e}")


def _strongly_convex(estimates: Sequence[Estimate]) -> Finding:
    """Each iterate by itself: what is small beside the L of another iterate is not singular."""
    negative = [found for found in estimates if found.mu < -found.rounding]
    worst = (
        min(negative, key=lambda found: found.mu)
        if negative
        else max(estimates, key=lambda found: found.condition)
    )
    mu, largest = worst.mu, worst.smoothness
    where = "at a minimiser" if worst.mu_end <= worst.rounding else "between phi0 and a minimiser"
    if negative:
        return Finding(
            CONVEX,
            Verdict.VIOLATED,
            f"negative curvature {where}: eigenvalue {mu:.3g} (L = {largest:.3g})",
            "regularise the lower objective, or start nearer to its minimiser",
        )
    if mu <= worst.rounding:
        return Finding(
            CONVEX,
            Verdict.VIOLATED,
            f"singular Hessian {where}: eigenvalue {mu:.1e}, L = {largest:.3g}",
            "add an l2 term to the lower objective: its minimiser is not unique",
        )
    least, top = min(e.mu for e in estimates), max(e.smoothness for e in estimates)
    return Finding(
        CONVEX,
        Verdict.HOLDS,
        f"mu >= {least:.3g}, L = {top:.3g}, kappa = {top / least:.3g} at "
        f"{3 * len(estimates)} points",
    )


def _bounded(name: str, values: Sequence[float], remedy: str) -> Finding:
    low, high = min(values), max(values)
    if grows(values):
        return Finding(
            name,
            Verdict.VIOLATED,
            f"grows along the trajectory, from {values[0]:.3g} to {values[-1]:.3g}, and does not "
            "level off",
            remedy,
        )
    return Finding(name, Verdict.HOLDS, f"between {low:.3g} and {high:.3g} on the trajectory")


def grows(values: Sequence[float]) -> bool:
    """Whether a constant grew by `GROWTH` without levelling off.

    A heuristic, and named as such in the documentation: no finite trajectory proves growth.
    """
    if len(values) < 3 or not values[0] > 0 or not values[-2] > 0:
        return False
    total = math.log(values[-1] / values[0]) if values[-1] > 0 else 0.0
    last = math.log(values[-1] / values[-2]) if values[-1] > 0 else 0.0
    return total >= math.log(GROWTH) and last >= LEVEL * total / (len(values) - 1)
