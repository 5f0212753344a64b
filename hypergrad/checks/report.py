"""What a check found: one row for each question, and one sentence that says what to do."""

from __future__ import annotations

import enum
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DIFFERENCES = "finite differences"  # the one question whose answer a passing report rests on

_WIDTH = 100
_COLUMNS = "  {:<21}{:<9}{:>9}{:>9}  "


class Verdict(enum.Enum):
    """How a question was answered."""

    OK = "ok"
    FAULT = "FAULT"
    SKIPPED = "-"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report.

    Attributes:
        name: of the question.
        verdict: its answer.
        measured: the number that was compared; NaN where there is none.
        limit: what it must not exceed, derived from the precision and the problem's own constants.
        evidence: what was measured, or the library's own refusal, or why it was not asked.
        remedy: what to do if it is a fault: a clause that begins with a verb.
    """

    name: str
    verdict: Verdict
    measured: float
    limit: float
    evidence: str
    remedy: str

    def lines(self) -> Iterator[str]:
        """The row as printed; the evidence is wrapped."""
        numbers = ("" if math.isnan(x) else f"{x:.1e}" for x in (self.measured, self.limit))
        head = _COLUMNS.format(self.name, self.verdict.value, *numbers)
        wrapped = textwrap.wrap(self.evidence, _WIDTH - len(head)) or [""]
        for index, line in enumerate(wrapped):
            yield (head if index == 0 else " " * len(head)) + line


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


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one problem; ``print`` it.

    Attributes:
        subject: the problem's dimensions, in words.
        findings: in the order in which they were asked, causes before their effects.
    """

    subject: str
    findings: Sequence[Finding]

    @property
    def faults(self) -> list[Finding]:
        """The findings that ask for something to be done."""
        return [finding for finding in self.findings if finding.verdict is Verdict.FAULT]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def advice(self) -> str:
        """One sentence that says what to do."""
        unsure = [
            f for f in self.findings if f.name == DIFFERENCES and f.verdict is Verdict.SKIPPED
        ]
        if self.passed and unsure:
            return (
                "Nothing to do, though differences could not confirm the hypergradient: "
                f"{unsure[0].evidence}."
            )
        if self.passed:
            return (
                "Nothing to do: the hypergradient is what its definition says, as far as this "
                "precision can tell."
            )
        remedies = [finding.remedy for finding in self.faults]
        if len(remedies) == 1:
            return f"To do: {remedies[0]}, then check again."
        numbered = "; ".join(f"({i}) {text}" for i, text in enumerate(remedies, start=1))
        return f"To do, in this order: {numbered}; then check again."

    def __str__(self) -> str:
        rows = list(self._rows())
        titles = _COLUMNS.format("question", "answer", "measured", "limit") + "what was measured"
        rule = "  " + "-" * (_WIDTH - 2)
        body = [titles, rule, *rows, rule]
        advice = textwrap.wrap(self.advice, _WIDTH)
        return "\n".join([f"hypergrad.checks.check: {self.subject}", "", *body, "", *advice])

    def _rows(self) -> Iterator[str]:
        """All rows; questions that were not asked for one and the same reason share one."""
        for evidence, group in itertools.groupby(self.findings, key=_reason):
            same = list(group)
            if evidence and len(same) > 1:
                name = f"{len(same)} more questions"
                same = [skip(name, evidence)]
            for finding in same:
                yield from finding.lines()


def _reason(finding: Finding) -> str:
    """Why a question was not asked; nothing if it was."""
    return finding.evidence if finding.verdict is Verdict.SKIPPED else ""
