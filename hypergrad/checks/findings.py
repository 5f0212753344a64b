"""Findings of a check: the answer to one question, with what was measured and what to do."""

from __future__ import annotations

import enum
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH = 100


class Verdict(enum.Enum):
    """Answer to a question."""

    OK = "ok"
    FAULT = "FAULT"
    SKIPPED = "-"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report.

    Attributes:
        name: the question's name.
        verdict: its answer.
        measured: the number that was compared; NaN where there is none.
        limit: largest `measured` that is no fault, derived from the precision and the problem.
        evidence: words for `measured`, the library's error message, or the reason for not asking.
        remedy: advice if it is a fault: a clause that begins with a verb.
    """

    name: str
    verdict: Verdict
    measured: float
    limit: float
    evidence: str
    remedy: str


def compare(name: str, measured: float, limit: float, evidence: str, remedy: str) -> Finding:
    """A finding that is a fault unless ``measured <= limit`` (NaN is a fault)."""
    verdict = Verdict.OK if measured <= limit else Verdict.FAULT
    return Finding(name, verdict, measured, limit, evidence, remedy)


def state(name: str, fine: bool, evidence: str, remedy: str = "") -> Finding:
    """A finding without numbers."""
    verdict = Verdict.OK if fine else Verdict.FAULT
    return Finding(name, verdict, math.nan, math.nan, evidence, remedy)


def skip(name: str, reason: str) -> Finding:
    """A question that was not asked."""
    return Finding(name, Verdict.SKIPPED, math.nan, math.nan, reason, "")


def faults(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that ask for something to be done."""
    return [finding for finding in findings if finding.verdict is Verdict.FAULT]


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings as lines; questions not asked for one and the same reason share a row."""
    rows = []
    for reason, group in itertools.groupby(findings, key=_reason):
        same = list(group)
        many = bool(reason) and len(same) > 1
        rows += [skip(f"{len(same)} more questions", reason)] if many else same
    name = 2 + max(len(row.name) for row in rows)
    numbers = any(not math.isnan(row.measured) for row in rows)
    titles = f"  {'question':<{name}}{'answer':<8}"
    titles += f"{'measured':>8}{'limit':>9}  " if numbers else ""
    yield titles + "what was measured"
    yield "  " + "-" * (WIDTH - 2)
    for row in rows:
        head = f"  {row.name:<{name}}{row.verdict.value:<8}"
        if numbers:
            shown = ("" if math.isnan(x) else f"{x:.1e}" for x in (row.measured, row.limit))
            head += "{:>8}{:>9}  ".format(*shown)
        yield from textwrap.wrap(
            row.evidence, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
        ) or [head]


def _reason(finding: Finding) -> str:
    """Reason for not asking a question; empty if it was asked."""
    return finding.evidence if finding.verdict is Verdict.SKIPPED else ""
