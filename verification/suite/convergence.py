"""The convergence claims for a suite: error bounds, planner, convergence, tight rates, sampling.

`ENTRIES` are the claims, with how often each is put; `KINDS` are what the claims are put to that
are not about Algorithm 1 itself, with their planted bugs. A suite takes both as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verification.claims.certificates import a_posteriori_bound, certified
from verification.claims.certified_steps import certified_descent, certified_step
from verification.claims.cold_floor import cold_floor
from verification.claims.error_bounds import a_priori_bound
from verification.claims.evidence import Evidence
from verification.claims.floor import chi_square, proportional_floor, sequential
from verification.claims.planner import PLANNER, Planner, delivers
from verification.claims.stochastic import enumerated_moments, theorem_1, theorem_2s
from verification.claims.tight_rates import (
    closed_forms,
    energy_sandwich,
    fat_tail,
    huber,
    sawtooth,
)
from verification.claims.warm_starts import warm_descent
from verification.subjects.planting import InSource, SourceBug
from verification.suite.model import ALGORITHM, Bug, Entry, Kind


@dataclass(frozen=True)
class Plain:
    """A claim without chance, as a suite calls it."""

    claim: Callable[[Any, int], Evidence]

    def __call__(self, subject: Any, seed: int, size: float) -> Evidence:
        """The size does not matter."""
        return self.claim(subject, seed)


CERTIFICATE, PLANNING, CERTIFIED = "certificate", "planner", "certified steps"

_CERTIFICATE_BUGS = (
    (
        "rJ left out",
        "implicit.certificate",
        "(upper_coupling.value + rJ.value * v)",
        "upper_coupling.value",
    ),
    (
        "rH left out",
        "implicit.certificate",
        "(upper_smoothness.value + rH.value * v)",
        "upper_smoothness.value",
    ),
    ("residual left out", "implicit.certificate", "* v) * distance + residual", "* v) * distance"),
    (
        "residual taken as relative",
        "implicit.certificate",
        "residual = self.adjoint.residual * scale",
        "residual = self.adjoint.residual",
    ),
    (
        "|d g/d phi| not over mu",
        "implicit.certificate",
        "self.stationarity / mu.value",
        "self.stationarity",
    ),
    (
        "L12 not over mu",
        "implicit.certificate",
        "coupling.value / mu.value * system",
        "coupling.value * system",
    ),
    (
        "the sign of J v, which no residual shows",
        "implicit.pullback",
        "[-part for part in point.cross(solution.x)]",
        "[part for part in point.cross(solution.x)]",
    ),
    ("d f/d theta dropped", "implicit.pullback", "(left + right) / tasks", "right / tasks"),
)

_PLANNER_BUGS = (
    ("K for twice the accuracy", "2 * rates.c1", "rates.c1"),
    ("N for twice the accuracy", "2 + 4 * rates.s", "2 + 2 * rates.s"),
    ("s left out of N", "rates.s * b", "b"),
    ("sqrt(kappa) left out of a warm N", "rates.root * (2", "(2"),
    ("rJ left out of c1", "c1=lam12 + rJ * V", "c1=lam12"),
    ("rH left out of c1", "s * (lam22 + rH * V)", "s * lam22"),
    ("half the rate of CG", "2 * torch.atanh", "torch.atanh"),
    ("rounded down", ".ceil()", ".floor()"),
    ("half the steps", "needed.max()", "0.5 * needed.max()"),
    ("Theorem 2 with 9 for 18", "18 * upper_step_size", "9 * upper_step_size"),
    ("Theorem 2 with 2 for 8", "(8 * upper_step_size", "(2 * upper_step_size"),
)

_CERTIFIED_BUGS = (
    ("accepts 2 nu", "share <= nu", "share <= 2 * nu"),
    ("accepts the first round", "share <= nu", "True"),
    ("the best task for the mean", "bounds.value).mean()", "bounds.value).min()"),
    (
        "forgets v between rounds",
        "start = like(phi, unflatten(answer.certificate.adjoint.x, leaves(phi)))",
        "start = None",
    ),
    ("share of 1 + |h|", "error / size", "error / (1 + size)"),
)


def _numbered(letter: str, bugs: tuple[tuple[str, Any], ...]) -> tuple[Bug, ...]:
    return tuple(
        Bug(f"{letter}{number:02d}", what, subject)
        for number, (what, subject) in enumerate(bugs, start=1)
    )


def _source(module: str, old: str, new: str, honest: Callable[..., Any]) -> InSource:
    return InSource((SourceBug(f"hypergrad.{module}", old, new),), honest)


def _planner(old: str, new: str) -> Planner:
    return Planner(
        plan=_source("theory.planning", old, new, PLANNER.plan),
        plan_warm=_source("theory.planning", old, new, PLANNER.plan_warm),
    )


KINDS: tuple[Kind, ...] = (
    Kind(
        CERTIFICATE,
        certified,
        _numbered(
            "C",
            tuple(
                (what, _source(module, old, new, certified))
                for what, module, old, new in _CERTIFICATE_BUGS
            ),
        ),
    ),
    Kind(
        PLANNING,
        PLANNER,
        _numbered("P", tuple((what, _planner(old, new)) for what, old, new in _PLANNER_BUGS)),
    ),
    Kind(
        CERTIFIED,
        certified_step,
        _numbered(
            "T",
            tuple(
                (what, _source("theory.adaptive", old, new, certified_step))
                for what, old, new in _CERTIFIED_BUGS
            ),
        ),
    ),
)


def _entry(
    name: str,
    claim: Callable[[Any, int], Evidence],
    kind: str = ALGORITHM,
    *,
    small: int = 3,
    full: int = 300,
    shown: str | None = None,
) -> Entry:
    return Entry(
        name=name,
        statement=_statement(claim),
        kind=kind,
        evaluate=Plain(claim),
        seeds={"small": small, "full": full},
        shown=None if shown is None else tuple(shown.split()),
    )


def _statement(claim: Callable[..., Evidence]) -> str:
    return (claim.__doc__ or "").splitlines()[0].rstrip(".")


def _chance(name: str, claim: Callable[[Any, int, float], Evidence], *, shown: str) -> Entry:
    return Entry(
        name=name,
        statement=_statement(claim),
        kind=ALGORITHM,
        evaluate=claim,
        seeds={"small": 1, "full": 20},
        statistical=True,
        shown=tuple(shown.split()),
    )


# In a small run the slow ones are shown a few of the bugs that they must notice.
ENTRIES: tuple[Entry, ...] = (
    _entry("Theorem A", a_priori_bound, full=1000, shown="M01 M07 M09 M16"),
    _entry("Theorem B", a_posteriori_bound, CERTIFICATE, full=600),
    _entry("K0, N0", delivers, PLANNING, full=1500),
    _entry("cold floor", cold_floor, full=200, shown="M03 M12 M18"),
    _entry("Theorem 2", warm_descent, small=2, full=100, shown="M01 M07 M18"),
    _entry("Theorem 3", certified_descent, CERTIFIED, full=200),
    _entry("sawtooth", sawtooth, shown="M01 M06 M16"),
    _entry("Huber", huber, shown="M01 M05 M11"),
    _entry("closed forms", closed_forms, small=2, full=100, shown="M01 M06 M18"),
    _entry("non-convex", fat_tail, shown="M01 M02 M11"),
    _entry("energy sandwich", energy_sandwich, shown="M04 M05 M22"),
    _entry("moments", enumerated_moments, shown="M01 M04 M17 M25"),
    _entry("Theorem 1", theorem_1, full=200, shown="M01 M04 M22"),
    _entry("Theorem 2s", theorem_2s, full=200, shown="M01 M07 M24"),
    _entry("floor", proportional_floor, shown="M01 M05 M18"),
    _chance("floor, simulated", chi_square, shown="M01 M04 M08"),
    _chance("batches, simulated", sequential, shown="M01 M04 M05"),
)
