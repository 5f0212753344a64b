"""Every claim there is, by name. A new claim is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verification.claims import (
    certificates,
    certified_steps,
    exact_solves,
    linear_solvers,
    memory,
    planner,
    roots,
    warm_states,
)
from verification.claims.cold_floor import cold_floor
from verification.claims.complexity import oracle_calls, total_cost
from verification.claims.error_bounds import a_priori_bound
from verification.claims.evidence import Evidence
from verification.claims.exact_arithmetic import exact_arithmetic
from verification.claims.finite_steps import finite_steps_on_lc, finite_steps_on_quad
from verification.claims.floor import chi_square, proportional_floor, sequential
from verification.claims.independence import independent_tasks
from verification.claims.stochastic import enumerated_moments, theorem_1, theorem_2s
from verification.claims.tight_rates import (
    closed_forms,
    energy_sandwich,
    fat_tail,
    huber,
    sawtooth,
)
from verification.claims.warm_starts import warm_descent
from verification.subjects.bug import Kind
from verification.subjects.bugs import ALGORITHM
from verification.suite.model import Entry, Suite


@dataclass(frozen=True)
class WithoutChance:
    """A claim that no chance is part of, as a suite calls it."""

    claim: Callable[[Any, int], Evidence]

    def __call__(self, subject: Any, seed: int, size: float) -> Evidence:
        """The claim's evidence, whatever the size."""
        return self.claim(subject, seed)


def _statement(claim: Callable[..., Evidence]) -> str:
    return (claim.__doc__ or "").splitlines()[0].rstrip(".")


def _claim(
    name: str,
    claim: Callable[[Any, int], Evidence],
    kind: Kind = ALGORITHM,
    *,
    small: int = 3,
    full: int = 300,
    shown: str | None = None,
) -> Entry:
    """A claim by its function, with the number of seeds for each size of run."""
    return Entry(
        name=name,
        statement=_statement(claim),
        kind=kind,
        evaluate=WithoutChance(claim),
        seeds={"small": small, "full": full},
        shown=None if shown is None else tuple(shown.split()),
    )


def _statistical(name: str, claim: Callable[[Any, int, float], Evidence], *, shown: str) -> Entry:
    return Entry(
        name=name,
        statement=_statement(claim),
        kind=ALGORITHM,
        evaluate=claim,
        seeds={"small": 1, "full": 20},
        statistical=True,
        shown=tuple(shown.split()),
    )


# In a small run the slow claims are shown a few of the bugs that they must notice.
ENTRIES: tuple[Entry, ...] = (
    _claim("exact solves", exact_solves.solved_exactly, exact_solves.KIND, small=40, full=3_000),
    _claim(
        "softmax heads", exact_solves.heads_solved_exactly, exact_solves.KIND, small=10, full=500
    ),
    _claim("roots", roots.exact_roots, roots.KIND, small=20, full=5_000),
    _claim("exact arithmetic", exact_arithmetic, small=20, full=550),
    _claim("finite steps on Quad", finite_steps_on_quad, small=60, full=5_000),
    _claim("finite steps on LC", finite_steps_on_lc, small=60, full=2_500),
    _claim("oracle calls", oracle_calls, small=40, full=3_000),
    _claim("total cost", total_cost, small=2, full=100),
    _claim("saved bytes", memory.saved_bytes, memory.KIND, small=10),
    _claim("independence of tasks", independent_tasks, small=20, full=1_000),
    _claim(
        "linear solvers",
        linear_solvers.solved_in_few_steps,
        linear_solvers.KIND,
        small=20,
        full=2_000,
    ),
    _claim("warm starts", warm_states.remembered_starts, warm_states.KIND, small=20, full=6_000),
    _claim("Theorem A", a_priori_bound, full=1_000, shown="M01 M07 M09 M16"),
    _claim("Theorem B", certificates.a_posteriori_bound, certificates.KIND, full=600),
    _claim("planned steps", planner.planned_steps, planner.KIND, full=1_500),
    _claim("cold floor", cold_floor, full=200, shown="M03 M12 M18"),
    _claim("Theorem 2", warm_descent, small=2, full=100, shown="M01 M07 M18"),
    _claim("Theorem 3", certified_steps.certified_descent, certified_steps.KIND, full=200),
    _claim("sawtooth", sawtooth, shown="M01 M06 M16"),
    _claim("Huber", huber, shown="M01 M05 M11"),
    _claim("closed forms", closed_forms, small=2, full=100, shown="M01 M06 M18"),
    _claim("non-convex", fat_tail, shown="M01 M02 M11"),
    _claim("energy sandwich", energy_sandwich, shown="M04 M05 M22"),
    _claim("moments", enumerated_moments, shown="M01 M04 M17 M25"),
    _claim("Theorem 1", theorem_1, full=200, shown="M01 M04 M22"),
    _claim("Theorem 2s", theorem_2s, full=200, shown="M01 M07 M24"),
    _claim("floor", proportional_floor, shown="M01 M05 M18"),
    _statistical("simulated floor", chi_square, shown="M01 M04 M08"),
    _statistical("simulated batches", sequential, shown="M01 M04 M05"),
)


def suite() -> Suite:
    """The suite that `python -m verification run` runs."""
    return Suite(ENTRIES)
