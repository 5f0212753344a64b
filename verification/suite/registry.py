"""Every claim there is, and everything claims are put to. A new one is one line here."""

from collections.abc import Callable
from typing import Any

from verification.claims import d2, d3, d6
from verification.claims.complexity import c8
from verification.claims.evidence import Evidence
from verification.claims.exact_arithmetic import exact_arithmetic
from verification.claims.exact_solves import BUGS as SOLVE_BUGS
from verification.claims.exact_solves import c1a, solved
from verification.claims.heads import c1h
from verification.claims.independence import c10
from verification.claims.linear_solvers import BUGS as LINEAR_BUGS
from verification.claims.linear_solvers import l1, solve
from verification.claims.memory import BUGS as MEMORY_BUGS
from verification.claims.memory import by_argmin, c9
from verification.claims.sampler import BUGS as SAMPLER_BUGS
from verification.claims.sampler import c7, uniform
from verification.claims.total_cost import c8b
from verification.claims.warm_states import BUGS as WARM_BUGS
from verification.claims.warm_states import remembered, w1
from verification.report.convergence_series import SERIES as CONVERGENCE_SERIES
from verification.report.curves import Draw, memory, theorem_a
from verification.report.tightness import tightness
from verification.subjects.algorithm1 import memory_reduced
from verification.subjects.bugs import MUTANTS
from verification.suite import convergence
from verification.suite.model import ALGORITHM, SIZES, Bug, Entry, Kind, Suite

SAMPLER = "task sampler"
DIFFERENTIATOR = "differentiable lower solve"
SOLVED = "solved to round-off"
LINEAR = "linear solvers"
WARM = "warm starts"


def statement(claim: object) -> str:
    """The first line of a claim's docstring, without its name."""
    return (claim.__doc__ or "").splitlines()[0].split(": ", 1)[-1].rstrip(".")


def _entry(name: str, kind: str, claim: Callable[[Any, int], Evidence], **seeds: int) -> Entry:
    """A claim that no chance is part of."""
    return Entry(
        name=name,
        statement=statement(claim),
        kind=kind,
        evaluate=lambda subject, seed, _: claim(subject, seed),
        seeds={size: seeds[size] for size in SIZES},
    )


ENTRIES: tuple[Entry, ...] = (
    _entry("C1a", SOLVED, c1a, small=40, full=3_000),
    _entry("C1h", SOLVED, c1h, small=10, full=500),
    _entry("C1b", ALGORITHM, exact_arithmetic, small=20, full=550),
    _entry("D2", ALGORITHM, d2, small=60, full=5_000),
    _entry("D3", ALGORITHM, d3, small=60, full=2_500),
    _entry("D6", ALGORITHM, d6, small=40, full=3_000),
    Entry(
        name="C7",
        statement=statement(c7),
        kind=SAMPLER,
        evaluate=c7,
        seeds={"small": 20, "full": 100},
        statistical=True,
    ),
    _entry("C8", ALGORITHM, c8, small=40, full=3_000),
    _entry("C8b", ALGORITHM, c8b, small=2, full=100),
    _entry("C9", DIFFERENTIATOR, c9, small=10, full=300),
    _entry("C10", ALGORITHM, c10, small=20, full=1_000),
    _entry("L1", LINEAR, l1, small=20, full=2_000),
    _entry("W1", WARM, w1, small=20, full=6_000),
    *convergence.ENTRIES,
)

KINDS: tuple[Kind, ...] = (
    Kind(ALGORITHM, memory_reduced, tuple(Bug(m.name, m.bug, m.subject) for m in MUTANTS)),
    Kind(SAMPLER, uniform, SAMPLER_BUGS),
    Kind(DIFFERENTIATOR, by_argmin, MEMORY_BUGS),
    Kind(SOLVED, solved, SOLVE_BUGS),
    Kind(LINEAR, solve, LINEAR_BUGS),
    Kind(WARM, remembered, WARM_BUGS),
    *convergence.KINDS,
)

SERIES: tuple[Draw, ...] = (theorem_a, tightness, memory, *CONVERGENCE_SERIES)


def suite() -> Suite:
    """What `python -m verification run` runs."""
    return Suite(entries=ENTRIES, kinds=KINDS)
