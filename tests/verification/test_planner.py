"""The claim about K0 and N0: it holds on the library, and every wrong formula falls to it."""

from tests.verification.detection import check


def test_planner() -> None:
    every = " ".join(f"P{number:02d}" for number in range(1, 12))
    check("K0, N0", seeds=range(6), seen=every, blind="")
