"""Promises of the library: functions of the implementation under test that return evidence."""

from verification.claims.evidence import Evidence, worst
from verification.claims.exact_solves import ExactSubject, against_exact_oracle
from verification.claims.finite_steps import against_finite_oracle

__all__ = [
    "Evidence",
    "ExactSubject",
    "against_exact_oracle",
    "against_finite_oracle",
    "worst",
]
