"""Answer of a claim: the numbers, the bound they were held to, and the verdict."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """One comparison, or the worst of several.

    Attributes:
        claim: name of the claim, or the statement that was tested.
        error: distance between subject and oracle.
        tolerance: largest error that rounding or chance explains, derived; finite and positive.
        scale: norm of the oracle's answer, to read the error by.
        comparisons: number of comparisons made; this is the worst.
        where: words that tell this comparison from the others.
    """

    claim: str
    error: float
    tolerance: float
    scale: float
    where: str
    comparisons: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(
                f"{self.claim}, {self.where}: the tolerance is {self.tolerance}, which lets "
                "anything pass or nothing; derive one that is finite and positive."
            )

    @property
    def ratio(self) -> float:
        """error/tolerance, infinite for an error that is no number."""
        ratio = self.error / self.tolerance
        return math.inf if math.isnan(ratio) else ratio

    @property
    def margin(self) -> float:
        """tolerance/error: how much worse it could have been."""
        return math.inf if self.ratio == 0 else 1 / self.ratio

    @property
    def holds(self) -> bool:
        """The verdict. An error that is not finite never holds."""
        return self.ratio <= 1

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return (
            f"{self.claim}: {verdict}; error {self.error:.2e}, tolerance {self.tolerance:.2e} "
            f"(margin {self.margin:.1e}) on an answer of size {self.scale:.2e}; "
            f"worst of {self.comparisons}: {self.where}"
        )


def worst(evidence: Iterable[Evidence]) -> Evidence:
    """The piece of evidence with the largest error/tolerance, counting all comparisons."""
    pieces = list(evidence)
    if not pieces:
        raise ValueError("worst() got no evidence: a claim that compares nothing holds nothing.")
    bad = max(pieces, key=lambda piece: piece.ratio)
    return Evidence(
        claim=bad.claim,
        error=bad.error,
        tolerance=bad.tolerance,
        scale=bad.scale,
        where=bad.where,
        comparisons=sum(piece.comparisons for piece in pieces),
    )
