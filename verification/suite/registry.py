"""Every claim there is, by name. A new claim is one entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verification.claims import (
    acceleration,
    batches,
    certificates,
    certified_steps,
    exact_solves,
    kinks,
    limits,
    linear_solvers,
    memory,
    planner,
    ranks,
    roots,
    second_order,
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
    blind: str = "",
) -> Entry:
    """A claim by its function, with the number of seeds for each size of run."""
    return Entry(
        name=name,
        statement=_statement(claim),
        kind=kind,
        evaluate=WithoutChance(claim),
        seeds={"small": small, "full": full},
        shown=None if shown is None else tuple(shown.split()),
        blind=tuple(blind.split()),
    )


def _statistical(
    name: str, claim: Callable[[Any, int, float], Evidence], *, shown: str, blind: str
) -> Entry:
    return Entry(
        name=name,
        statement=_statement(claim),
        kind=ALGORITHM,
        evaluate=claim,
        seeds={"small": 1, "full": 20},
        statistical=True,
        shown=tuple(shown.split()),
        blind=tuple(blind.split()),
    )


ENTRIES: tuple[Entry, ...] = (
    _claim("exact solves", exact_solves.solved_exactly, exact_solves.KIND, small=20, full=3_000),
    _claim(
        "softmax heads", exact_solves.heads_solved_exactly, exact_solves.KIND, small=10, full=500
    ),
    _claim("roots", roots.exact_roots, roots.KIND, small=10, full=2_000),
    _claim("Hessian of F", second_order.hessian_of_F, second_order.KIND, small=8, full=2_000),
    _claim("active sets", kinks.active_sets_solved, kinks.KIND, small=4, full=150),
    _claim("coordinates", kinks.coordinates_solved, kinks.COORDINATES, small=1, full=150),
    _claim("reach", kinks.reach_is_true, kinks.KIND, small=2, full=100, shown="K04 K05"),
    _claim("low rank", ranks.low_rank_solved, ranks.KIND, full=700),
    # it notices all but what only costs time
    _claim(
        "exact arithmetic", exact_arithmetic, small=10, full=550, shown="M01 M16 M19", blind="A05"
    ),
    # on Quad neither H nor J depends on phi; products taken twice cost, and change nothing
    _claim(
        "finite steps on Quad", finite_steps_on_quad, small=30, full=5_000, blind="M09 M10 A05 A07"
    ),
    _claim("finite steps on LC", finite_steps_on_lc, small=30, full=2_500, blind="A05"),
    _claim("oracle calls", oracle_calls, small=20, full=3_000),
    _claim("total cost", total_cost, small=2, full=100, shown="M16"),
    _claim("saved bytes", memory.saved_bytes, memory.KIND, small=10),
    # it sees nothing but what treats a task differently in company
    _claim(
        "independence of tasks",
        independent_tasks,
        small=10,
        full=1_000,
        shown="M04 M05 M21 M25 A03 A06",
        blind="M01 M07 M09 M16 M24 A05 A07",
    ),
    _claim(
        "linear solvers",
        linear_solvers.solved_in_few_steps,
        linear_solvers.KIND,
        small=20,
        full=2_000,
    ),
    _claim("attained residual", limits.attained_residual, limits.ATTAINED, full=2_000),
    _claim("Lanczos' ends", limits.lanczos_ends, limits.ENDS, full=2_000),
    _claim("predicted error", limits.predicted_remainder, limits.PREDICTED, full=2_000),
    _claim("least damping", limits.descending, limits.DAMPED, full=2_000),
    _claim("Anderson acceleration", acceleration.anderson, acceleration.KIND, full=2_000),
    _claim("batches' mean", batches.unbiased_directions, batches.KIND, full=400),
    _claim("unbiased series", batches.unbiased_series, batches.KIND, small=1, full=100),
    _claim("variance of batches", batches.variance_of_batches, batches.KIND, small=1, full=100),
    _claim("warm starts", warm_states.remembered_starts, warm_states.KIND, small=20, full=6_000),
    # an iterate more, or a neighbour's start, only brings phi closer: bounds can't see that
    _claim("Theorem A", a_priori_bound, full=1_000, shown="M01 M05 M07 M08 M09 M16", blind="M17"),
    _claim("Theorem B", certificates.a_posteriori_bound, certificates.KIND, full=600),
    _claim("planned steps", planner.planned_steps, planner.KIND, full=1_500),
    # Quad: H and J don't depend on phi; conjugate gradients are exact, one step short or not
    _claim("cold floor", cold_floor, full=200, shown="M01 M03 M12 M17 M18 M24", blind="M06 M10"),
    # warm starts forgive a step more or less
    _claim("Theorem 2", warm_descent, small=2, full=100, shown="M01 M07 M18", blind="M16"),
    _claim("Theorem 3", certified_steps.certified_descent, certified_steps.KIND, full=200),
    # the next four have one task, whose minimiser f alone sees: none sees sums over tasks or M22
    _claim("sawtooth", sawtooth, shown="M01 M06 M12 M16 M18", blind="M04 M17 M22"),
    # a saturated gradient hides every inner bias
    _claim("Huber", huber, shown="M01 M02 M05 M11", blind="M16 M18 M22 M24"),
    _claim(
        "closed forms",
        closed_forms,
        small=2,
        full=100,
        shown="M01 M06 M08 M18 M24",
        blind="M16 M22",
    ),
    _claim("non-convex", fat_tail, shown="M01 M02 M11", blind="M16 M22"),
    _claim("energy sandwich", energy_sandwich, shown="M02 M04 M05 M22", blind="M06 M16"),
    _claim("moments", enumerated_moments, shown="M01 M04 M08 M16 M17 M25", blind="M06 M10"),
    # inequalities see only what adds to the variance or to the bias, and much of it
    _claim("Theorem 1", theorem_1, full=200, shown="M01 M04 M22", blind="M06"),
    _claim("Theorem 2s", theorem_2s, full=200, shown="M01 M07 M24", blind="M04 M17"),
    _claim("floor", proportional_floor, shown="M01 M03 M05 M18 M24", blind="M04 M17"),
    # tasks are drawn anew in each replicate: what only shifts the mean a little is not seen
    _statistical("simulated floor", chi_square, shown="M01 M04 M08", blind="M06"),
    _statistical("simulated batches", sequential, shown="M01 M04 M05", blind="M18"),
)


def suite() -> Suite:
    """The suite that `python -m verification run` runs."""
    return Suite(ENTRIES)
