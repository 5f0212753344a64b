"""The claim about K0 and N0: it holds on the library, and wrong formulas fall to it."""

from tests.verification.detection import check


def test_planner() -> None:
    check("K0, N0", seeds=range(2), seen="P01 P02 P03 P05 P07 P08 P11", blind="")
