"""Put every claim to the honest subject and to every planted bug, and say what came out.

A run passes if every claim holds on the honest subject for every seed, every planted bug is noticed
by some claim for every seed it was shown with, and every claim notices some bug: a claim that
notices none shows nothing. No evaluation is repeated and no seed is chosen: they are 0, 1, 2, ...
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from verification.claims.evidence import Evidence
from verification.suite import BUG_SEEDS, Entry, Size, Suite


@dataclass
class Row:
    """What became of a claim on the honest subject.

    Attributes:
        name: of the claim.
        statement: in one line.
        kind: what it was put to.
        seeds: how many there are.
        done: how many of them have been put.
        comparisons: made so far.
        failures: seeds for which it did not hold.
        ratios: error/tolerance, one for each seed.
        worst: the worst evidence in words.
        error: of the worst evidence.
        tolerance: of the worst evidence.
        seconds: spent.
    """

    name: str
    statement: str
    kind: str
    seeds: int
    done: int = 0
    comparisons: int = 0
    failures: list[int] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    worst: str = ""
    error: float = 0.0
    tolerance: float = math.nan
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """The worst error/tolerance so far."""
        return max(self.ratios, default=0.0)

    def add(self, seed: int, evidence: Evidence) -> None:
        """Take down one piece of evidence."""
        self.done += 1
        self.comparisons += evidence.comparisons
        if not self.ratios or evidence.ratio > self.ratio:
            self.worst = f"seed {seed}: {evidence}"
            self.error, self.tolerance = evidence.error, evidence.tolerance
        self.ratios.append(evidence.ratio)
        if not evidence.holds:
            self.failures.append(seed)


@dataclass
class Cell:
    """What a claim said about a planted bug.

    Attributes:
        claim: its name.
        kind: what the claim is put to.
        bug: the bug's name.
        what: the bug in words.
        shown: with how many seeds.
        noticed: for how many of them.
        ratio: the least error/tolerance.
    """

    claim: str
    kind: str
    bug: str
    what: str
    shown: int
    noticed: int
    ratio: float


@dataclass
class Outcome:
    """A whole run.

    Attributes:
        size: small or full.
        allowance: size of each statistical evaluation.
        rows: the claims on their honest subjects.
        cells: the claims on the bugs of their kind.
        series: curves with bounds and measurements, for the figures.
        problems: what makes the run fail, in words that name the claim; empty if it passes.
    """

    size: Size
    allowance: float
    rows: list[Row] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    series: dict[str, dict[str, object]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


Watch = Callable[[Outcome], None]


def _put(entry: Entry, subject: object, seed: int, size: float) -> Evidence:
    """The evidence; an implementation that raises does not hold."""
    try:
        return entry.evaluate(subject, seed, size)
    except Exception as error:  # whatever a broken implementation may raise
        return Evidence(
            claim=entry.name,
            error=math.inf,
            tolerance=1.0,
            scale=math.nan,
            where=f"raised {type(error).__name__}: {error}",
        )


def run(
    suite: Suite, size: Size, *, bug_seeds: int | None = None, watch: Watch | None = None
) -> Outcome:
    """Run the suite.

    Args:
        suite: claims and what they are put to.
        size: how many seeds.
        bug_seeds: how many seeds a planted bug is shown with; None means as the size says.
        watch: is shown the outcome after each evaluation.
    """
    outcome = Outcome(size=size, allowance=suite.allowance(size))
    shown = BUG_SEEDS[size] if bug_seeds is None else bug_seeds
    for entry in suite.entries:
        row = Row(entry.name, entry.statement, entry.kind, entry.seeds[size])
        outcome.rows.append(row)
        began = time.perf_counter()
        for seed in range(row.seeds):
            row.add(seed, _put(entry, suite.kind(entry).honest, seed, outcome.allowance))
            row.seconds = time.perf_counter() - began
            if watch is not None:
                watch(outcome)
    for entry in suite.entries:
        for bug in suite.kind(entry).bugs:
            found = [_put(entry, bug.subject, seed, outcome.allowance) for seed in range(shown)]
            outcome.cells.append(
                Cell(
                    claim=entry.name,
                    kind=entry.kind,
                    bug=bug.name,
                    what=bug.what,
                    shown=shown,
                    noticed=sum(not evidence.holds for evidence in found),
                    ratio=min(evidence.ratio for evidence in found),
                )
            )
            if watch is not None:
                watch(outcome)
    outcome.problems = judge(outcome.rows, outcome.cells)
    return outcome


def judge(rows: Sequence[Row], cells: Sequence[Cell]) -> list[str]:
    """What makes a run fail, in words."""
    problems = [
        f"claim {row.name} fails for {len(row.failures)} of {row.done} seeds; {row.worst}"
        for row in rows
        if row.failures
    ]
    noticed: dict[tuple[str, str], bool] = {}
    useful = {row.name: False for row in rows}
    words = {(cell.kind, cell.bug): cell.what for cell in cells}
    for cell in cells:
        caught = cell.noticed == cell.shown
        key = (cell.kind, cell.bug)
        noticed[key] = noticed.get(key, False) or caught
        useful[cell.claim] = useful[cell.claim] or caught
    problems += [
        f"planted bug {bug} of {kind} ({words[kind, bug]}) is noticed by no claim"
        for (kind, bug), caught in noticed.items()
        if not caught
    ]
    problems += [f"claim {name} notices no planted bug" for name, ok in useful.items() if not ok]
    return problems
