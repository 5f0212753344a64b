"""Put every claim to the honest subject and to every planted bug, and say what came out.

A run passes if every claim holds on the honest subject for every seed, every planted bug is noticed
by the claim that it names for every seed it was shown with, and every claim notices some bug: a
claim that notices none shows nothing. What else a claim must notice, and what it can't, is held to
as well. No evaluation is repeated and no seed is chosen: they are 0, 1, 2, ...

Evaluations are independent, so that processes share them; the outcome does not depend on how many
there are or on which of them is faster.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

import torch

from verification.claims.evidence import Evidence
from verification.problems.drawn import gathered_tasks
from verification.subjects.planting import SnippetError
from verification.suite.model import BUG_SEEDS, Entry, Size, Suite

PIECES = 20  # that the seeds of a claim are divided into


@dataclass
class Row:
    """Outcome of a claim on the honest subject.

    Attributes:
        name: name of the claim.
        statement: the claim in one line.
        kind: name of the kind of subject.
        seeds: number of seeds.
        done: number of seeds evaluated so far.
        comparisons: number of comparisons made so far.
        failures: seeds for which the claim did not hold.
        ratios: error/tolerance by seed.
        worst: the worst evidence.
        worst_seed: seed of the worst evidence.
        seconds: processor time of all processes together.
    """

    name: str
    statement: str
    kind: str
    seeds: int
    done: int = 0
    comparisons: int = 0
    failures: list[int] = field(default_factory=list)
    ratios: dict[int, float] = field(default_factory=dict)
    worst: Evidence | None = None
    worst_seed: int = -1
    seconds: float = 0.0

    @property
    def ratio(self) -> float:
        """The worst error/tolerance so far."""
        return max(self.ratios.values(), default=0.0)

    def add(self, seed: int, evidence: Evidence) -> None:
        """Take down one piece of evidence; in whatever order, the outcome is the same."""
        self.done += 1
        self.comparisons += evidence.comparisons
        if self.worst is None or (evidence.ratio, -seed) > (self.worst.ratio, -self.worst_seed):
            self.worst, self.worst_seed = evidence, seed
        self.ratios[seed] = evidence.ratio
        if not evidence.holds:
            self.failures = sorted([*self.failures, seed])


@dataclass
class Cell:
    """Outcome of a claim on a planted bug.

    Attributes:
        claim: name of the claim.
        kind: name of the kind of subject.
        bug: name of the bug.
        what: the bug in words.
        shown: number of seeds that the claim was shown the bug with.
        noticed: number of seeds for which the claim noticed.
        ratio: the least error/tolerance.
        expected: True if the claim must notice the bug, False if it can't, None if it may.
        reason: error message if the bug could not be planted; empty if it was.
    """

    claim: str
    kind: str
    bug: str
    what: str
    shown: int
    noticed: int
    ratio: float
    expected: bool | None = None
    reason: str = ""

    @property
    def caught(self) -> bool:
        """True if the claim noticed the bug for every seed."""
        return self.noticed == self.shown


@dataclass
class Outcome:
    """A whole run.

    Attributes:
        size: small or full.
        allowance: size of each statistical evaluation.
        rows: the claims on their honest subjects.
        cells: the claims on the bugs of their kind.
        problems: digests of the different tasks that were drawn for honest subjects.
        failures: reasons why the run fails, each naming the claim; empty if it passes.
    """

    size: Size
    allowance: float
    rows: list[Row] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    problems: set[bytes] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


Watch = Callable[[Outcome], None]


@dataclass(frozen=True)
class Piece:
    """Some seeds of a claim, on the honest subject or on a bug."""

    claim: str
    bug: str | None
    seeds: range
    allowance: float


@dataclass(frozen=True)
class Done:
    """Outcome of a piece."""

    piece: Piece
    evidence: list[Evidence]
    problems: set[bytes]
    seconds: float
    reason: str = ""


def put(entry: Entry, subject: object, seed: int, allowance: float) -> Evidence:
    """The evidence; for a subject that raises, an infinite error.

    Raises:
        SnippetError: the subject's bug cannot be planted, which says nothing about the claim.
    """
    try:
        return entry.evaluate(subject, seed, allowance)
    except SnippetError:
        raise
    except Exception as error:  # whatever a broken implementation may raise
        return Evidence(
            claim=entry.name,
            error=math.inf,
            tolerance=1.0,
            scale=math.nan,
            where=f"raised {type(error).__name__}: {error}",
        )


def _do(suite: Suite, piece: Piece) -> Done:
    entry = suite.entry(piece.claim)
    subject = entry.kind.honest if piece.bug is None else entry.bug(piece.bug).subject
    began = time.process_time()
    with gathered_tasks() as problems:
        try:
            found = [put(entry, subject, seed, piece.allowance) for seed in piece.seeds]
        except SnippetError as error:
            return Done(piece, [], set(), time.process_time() - began, str(error))
    return Done(piece, found, problems, time.process_time() - began)


_suite: Suite | None = None  # of a worker process


def _begin(make: Callable[[], Suite]) -> None:
    global _suite
    torch.set_num_threads(1)
    _suite = make()


def _work(piece: Piece) -> Done:
    assert _suite is not None  # _begin ran
    return _do(_suite, piece)


def run(
    make: Callable[[], Suite],
    size: Size,
    *,
    claims: tuple[str, ...] | None = None,
    bug_seeds: int | None = None,
    workers: int = 1,
    watch: Watch | None = None,
) -> Outcome:
    """Run a suite.

    Args:
        make: claims and what they are put to; a function that a process can import, if there are
            several.
        size: small or full, which says how many seeds.
        claims: the names of those to run; None means all.
        bug_seeds: number of seeds that a planted bug is shown with; None means as the size says, 0
            plants none, and then nothing is said about what claims notice.
        workers: number of processes; 1 means this one.
        watch: is shown the outcome as it grows.

    Raises:
        ValueError: no claim has such a name.
    """
    suite = make() if claims is None else make().only(claims)
    outcome = Outcome(size=size, allowance=make().allowance(size))
    rows = {e.name: Row(e.name, e.statement, e.kind.name, e.seeds[size]) for e in suite.entries}
    outcome.rows = list(rows.values())
    cells: dict[tuple[str, str], Cell] = {}
    pieces = list(_pieces(suite, outcome, BUG_SEEDS[size] if bug_seeds is None else bug_seeds))
    for done in _share(make, suite, pieces, workers):
        piece = done.piece
        if piece.bug is None:
            row = rows[piece.claim]
            row.seconds += done.seconds
            for seed, evidence in zip(piece.seeds, done.evidence, strict=True):
                row.add(seed, evidence)
            outcome.problems |= done.problems
        else:
            entry = suite.entry(piece.claim)
            bug = entry.bug(piece.bug)
            cells[piece.claim, piece.bug] = Cell(
                claim=piece.claim,
                kind=entry.kind.name,
                bug=bug.name,
                what=bug.what,
                shown=len(piece.seeds),
                noticed=sum(not evidence.holds for evidence in done.evidence),
                ratio=min((evidence.ratio for evidence in done.evidence), default=0.0),
                expected=entry.expected(bug),
                reason=done.reason,
            )
        order = ((p.claim, p.bug) for p in pieces if p.bug is not None)
        outcome.cells = [cells[key] for key in order if key in cells]
        if watch is not None:
            watch(outcome)
    outcome.failures = judge(outcome.rows, outcome.cells)
    if outcome.cells and claims is None:
        seen = {(cell.kind, cell.bug) for cell in outcome.cells}
        outcome.failures += [
            f"planted bug {bug.name} of {kind.name} ({bug.what}) is shown to no claim"
            for kind in suite.kinds
            for bug in kind.bugs
            if (kind.name, bug.name) not in seen
        ]
    return outcome


def _pieces(suite: Suite, outcome: Outcome, shown: int) -> Iterator[Piece]:
    for entry in suite.entries:
        seeds = entry.seeds[outcome.size]
        length = max(1, math.ceil(seeds / PIECES))
        for first in range(0, seeds, length):
            last = min(first + length, seeds)
            yield Piece(entry.name, None, range(first, last), outcome.allowance)
    for entry in suite.entries if shown else ():
        for bug in entry.bugs(outcome.size):
            yield Piece(entry.name, bug.name, range(shown), outcome.allowance)


def _share(
    make: Callable[[], Suite], suite: Suite, pieces: Sequence[Piece], workers: int
) -> Iterator[Done]:
    if workers == 1:
        for piece in pieces:
            yield _do(suite, piece)
        return
    # spawned, not forked: a child of a process with threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(make,)) as pool:
        futures: list[Future[Done]] = [pool.submit(_work, piece) for piece in pieces]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def judge(rows: Sequence[Row], cells: Sequence[Cell]) -> list[str]:
    """Reasons why a run fails, in words."""
    failures = [
        f"claim {row.name} fails for {len(row.failures)} of {row.done} seeds; "
        f"seed {row.worst_seed}: {row.worst}"
        for row in rows
        if row.failures
    ]
    reasons = {(cell.kind, cell.bug): cell.reason for cell in cells if cell.reason}
    failures += [
        f"bug {bug} of {kind} is not planted: {why}" for (kind, bug), why in reasons.items()
    ]
    for cell in cells:
        bug = f"planted bug {cell.bug} of {cell.kind} ({cell.what})"
        if cell.reason:
            continue
        if cell.expected is True and not cell.caught:
            failures.append(f"{bug} is not noticed by claim {cell.claim}, which must")
        if cell.expected is False and cell.noticed:
            failures.append(f"{bug} is noticed by claim {cell.claim}, listed as blind to it")
    useful = {cell.claim for cell in cells if cell.caught}
    if cells:
        failures += [
            f"claim {row.name} notices no planted bug" for row in rows if row.name not in useful
        ]
    return failures
