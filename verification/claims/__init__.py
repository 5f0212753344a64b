"""What is promised: functions of the implementation under test that return evidence."""

from verification.claims.batch_algebra import batch_algebra, d6
from verification.claims.evidence import Evidence, worst
from verification.claims.exact_solves import ExactSubject, against_exact_oracle
from verification.claims.finite_steps import Claim, against_finite_oracle, d2, d3

CLAIMS: dict[str, Claim] = {"D2": d2, "D3": d3, "D6": d6}

__all__ = [
    "CLAIMS",
    "Claim",
    "Evidence",
    "ExactSubject",
    "against_exact_oracle",
    "against_finite_oracle",
    "batch_algebra",
    "d2",
    "d3",
    "d6",
    "worst",
]
