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


def judge(
    trajectory: Trajectory, estimates: Sequence[Estimate], *, eps: float, size: int
) -> list[Finding]:
    """All assumptions of theory.md, sections 2 and 3, in the order in which they matter.

    Args:
        trajectory: the visits.
        estimates: one for each of them, possibly fewer where derivatives were not finite.
        eps: the precision.
        size: unknowns of a task, for the rounding of eigenvalues.
    """
    findings = [_defined(trajectory)]
    if not estimates:
        return findings
    findings.append(_strongly_convex(estimates, eps * size))
    if findings[-1].verdict is Verdict.HOLDS:
        inverse = [1 / found.mu for found in estimates]
        findings.append(_bounded("mu bounded away from 0 (1/mu)", inverse, _REGULARISE))
    findings += [
        _bounded(name, [getattr(found, key) for found in estimates], remedy)
        for name, key, remedy in _BOUNDED
    ]
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
    ("adjoint bounded (V)", "adjoint_norm", "regularise the lower objective, or bound the loss"),
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


def _strongly_convex(estimates: Sequence[Estimate], rounding: float) -> Finding:
    """Weyl: rounding moves an eigenvalue by at most n eps L, so that less cannot be told from 0."""
    mu = min(found.mu for found in estimates)
    end = min(found.mu_end for found in estimates)
    largest = max(abs(found.smoothness) for found in estimates)
    slack = rounding * max(largest, -mu)
    where = "at a minimiser" if end <= slack else "between phi0 and a minimiser"
    if mu < -slack:
        return Finding(
            CONVEX,
            Verdict.VIOLATED,
            f"negative curvature {where}: eigenvalue {mu:.3g} (L = {largest:.3g})",
            "regularise the lower objective, or start nearer to its minimiser",
        )
    if mu <= slack:
        return Finding(
            CONVEX,
            Verdict.VIOLATED,
            f"singular Hessian {where}: eigenvalue {mu:.1e}, L = {largest:.3g}",
            "add an l2 term to the lower objective: its minimiser is not unique",
        )
    return Finding(
        CONVEX,
        Verdict.HOLDS,
        f"mu >= {mu:.3g}, L = {largest:.3g}, kappa = {largest / mu:.3g} at "
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
