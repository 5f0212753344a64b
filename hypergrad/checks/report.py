"""The report of a check: two questions, their answers, and one sentence that says what to do."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hypergrad.checks.differences import DIFFERENCES
from hypergrad.checks.findings import WIDTH, Finding, Verdict, faults, table
from hypergrad.checks.theorems import Survey


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about one problem; ``print`` it.

    Attributes:
        problem: the problem's dimensions, and how phi was found, in words.
        findings: is this hypergradient right? In the order in which they were asked, causes
            before their effects.
        survey: do the theorems apply here? None if that was not asked.
    """

    problem: str
    findings: Sequence[Finding]
    survey: Survey | None

    @property
    def assumptions(self) -> Sequence[Finding]:
        """The findings on the theorems; empty if they were not asked about."""
        return [] if self.survey is None else self.survey.findings

    @property
    def faults(self) -> list[Finding]:
        """The findings that ask for something to be done."""
        return faults([*self.findings, *self.assumptions])

    @property
    def right(self) -> bool:
        """True if nothing is wrong with the hypergradient."""
        return not faults(self.findings)

    @property
    def applies(self) -> bool:
        """True if no assumption of the theorems was seen to fail."""
        return bool(self.assumptions) and not faults(self.assumptions)

    @property
    def passed(self) -> bool:
        """True if both questions are answered by yes."""
        return self.right and self.applies

    @property
    def advice(self) -> str:
        """One sentence that says what to do."""
        remedies = list(dict.fromkeys(finding.remedy for finding in self.faults))
        if not remedies:
            return f"Nothing to do: {self._confirmed()}."
        if len(remedies) == 1:
            return f"To do: {remedies[0]}, then check again."
        numbered = "; ".join(f"({i}) {text}" for i, text in enumerate(remedies, start=1))
        return f"To do, in this order: {numbered}; then check again."

    def _confirmed(self) -> str:
        for finding in self.findings:
            if finding.name == DIFFERENCES and finding.verdict is Verdict.SKIPPED:
                return f"but differences could not confirm the hypergradient, {finding.evidence}"
        return "the hypergradient is what its definition says, as far as this precision can tell"

    def __str__(self) -> str:
        lines = [f"hypergrad check: {self.problem}", ""]
        lines += [f"Is this hypergradient right? {'Yes' if self.right else 'No'}."]
        lines += [*table(self.findings), ""]
        if self.survey is None:
            lines += ["Do the theorems apply here? Not asked: first see to the hypergradient.", ""]
        else:
            count = len(self.survey.trajectory.visits)
            seen = f"{count} upper iterate{'' if count == 1 else 's'}"
            answer = f"Yes, as far as {seen} can show." if self.applies else f"No (seen at {seen})."
            lines += [f"Do the theorems apply here? {answer}", *table(self.assumptions), ""]
            lines += [*self.survey.lines(), ""]
        return "\n".join([*lines, *textwrap.wrap(self.advice, WIDTH)])

    def plain(self) -> dict[str, Any]:
        """Everything as JSON has it; numbers that JSON lacks as text."""
        rows = [
            {**asdict(finding), "verdict": finding.verdict.value, "question": question}
            for question, findings in (("right", self.findings), ("applies", self.assumptions))
            for finding in findings
        ]
        survey = {} if self.survey is None else self.survey.plain()
        whole = {"problem": self.problem, "passed": self.passed, "findings": rows, **survey}
        plain: dict[str, Any] = _finite(whole)
        return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
