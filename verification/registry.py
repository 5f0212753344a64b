"""Every claim there is, and everything claims are put to. A new one is one line here."""

from verification.claims import Claim, d2, d3, d6
from verification.claims.complexity import c8
from verification.claims.exact_arithmetic import exact_arithmetic
from verification.claims.independence import c10
from verification.claims.memory import BUGS as MEMORY_BUGS
from verification.claims.memory import by_argmin, c9
from verification.claims.sampler import BUGS as SAMPLER_BUGS
from verification.claims.sampler import s1, uniform
from verification.mutants import MUTANTS
from verification.series import Draw, memory, theorem_a
from verification.subjects import memory_reduced
from verification.suite import ALGORITHM, Bug, Entry, Kind, Suite

SAMPLER = "task sampler"
DIFFERENTIATOR = "differentiable lower solve"


def statement(claim: object) -> str:
    """The first line of a claim's docstring, without its name."""
    return (claim.__doc__ or "").splitlines()[0].split(": ", 1)[-1].rstrip(".")


def _of_algorithm(name: str, claim: Claim, *, small: int, full: int) -> Entry:
    return Entry(
        name=name,
        statement=statement(claim),
        kind=ALGORITHM,
        evaluate=lambda subject, seed, _: claim(subject, seed),
        seeds={"small": small, "full": full},
    )


CLAIMS: tuple[Entry, ...] = (
    _of_algorithm("D2", d2, small=100, full=12_000),
    _of_algorithm("D3", d3, small=100, full=10_000),
    _of_algorithm("D6", d6, small=60, full=5_000),
    _of_algorithm("C1", exact_arithmetic, small=20, full=1_000),
    _of_algorithm("C8", c8, small=60, full=4_000),
    _of_algorithm("C10", c10, small=40, full=2_000),
    Entry(
        name="C7",
        statement=statement(s1),
        kind=SAMPLER,
        evaluate=s1,
        seeds={"small": 20, "full": 100},
        statistical=True,
    ),
    Entry(
        name="C9",
        statement=statement(c9),
        kind=DIFFERENTIATOR,
        evaluate=lambda subject, seed, _: c9(subject, seed),
        seeds={"small": 20, "full": 500},
    ),
)

KINDS: tuple[Kind, ...] = (
    Kind(ALGORITHM, memory_reduced, tuple(Bug(m.name, m.bug, m.subject) for m in MUTANTS)),
    Kind(SAMPLER, uniform, SAMPLER_BUGS),
    Kind(DIFFERENTIATOR, by_argmin, MEMORY_BUGS),
)

SERIES: tuple[Draw, ...] = (theorem_a, memory)


def suite() -> Suite:
    """What `python -m verification run` runs."""
    return Suite(entries=CLAIMS, kinds=KINDS)
