"""What the page of the experiments quotes from comparisons under a small budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.project.quotes.quote import Quote, Record, row

PAGE: Final = "docs/experiments.md"
SHORT: Final = {
    "memory-reduced": "memory-reduced, K = N = 20",
    "memory-reduced-exact": "memory-reduced-exact",
    "anil": "ANIL, K = 10",
    "itd-bio": "ITD-BiO, K = 20",
    "protonet": "ProtoNet",
    "r2d2": "R2-D2",
    "maml": "MAML, K = 5 (Finn)",
    "maml-learn2learn": "MAML, K = 1 (learn2learn)",
    "imaml": "implicit MAML",
}
EXACT: Final = "memory-reduced-exact"
FC100: Final = "results/fc100-5way-5shot-100steps"
ONE_SHOT: Final = "results/cifar-fs-5way-1shot-200steps"
TIERED: Final = "results/tieredimagenet-5way-5shot-200steps"


def shown(accuracy: Record, error: Record) -> Iterator[str]:
    """The table of a comparison: paired differences, peaks and errors."""
    for method, cells in accuracy.items():
        apart = error.get(method, {}).get("median", "–")
        yield row(
            SHORT[method],
            cells["accuracy"],
            next(cell for name, cell in cells.items() if name.startswith("minus ")),
            cells["step (MiB)"],
            apart if apart == "–" else f"{float(apart):.2g}",
        )


def errors(error: Record) -> tuple[str, str]:
    """Errors of the hypergradient at the published K and N, and with both levels solved."""
    paper, exact = (f"{float(error[name]['median']):.2g}" for name in ("memory-reduced", EXACT))
    return paper, exact


def fc100(accuracy: Record, error: Record) -> Iterator[str]:
    yield from shown(accuracy, error)
    (peak,) = {cells["step (MiB)"] for cells in accuracy.values()}
    yield f"all six take {peak} MiB a step"
    assert {cells["passes a step"] for cells in accuracy.values()} == {"1"}
    apart = {
        name: cells["minus memory-reduced"].replace("(", "").replace(")", "").split(" ± ")
        for name, cells in accuracy.items()
        if name != "memory-reduced"
    }
    (level, half, _), exact = (map(float, apart[name]) for name in ("itd-bio", EXACT))
    assert abs(level) < half  # "level with it"
    assert all(float(difference) < 0 for difference, *_ in apart.values())
    paper, solved = errors(error)
    cost, _, seeds = exact
    assert -cost > seeds  # "more than other seeds explain"
    yield (f"the error falls from {paper} to {solved}, and accuracy by {-cost:.2f} points")


def tiered(accuracy: Record, error: Record) -> Iterator[str]:
    yield from shown(accuracy, error)
    (peak,) = {cells["step (MiB)"] for cells in accuracy.values()}
    yield f"as all six take {peak} MiB a step"
    assert {cells["passes a step"] for cells in accuracy.values()} == {"1"}
    apart = {
        name: [float(each) for each in cells["minus memory-reduced"].split(" ± ")]
        for name, cells in accuracy.items()
        if name != "memory-reduced"
    }
    level, half = apart.pop("itd-bio")
    assert abs(level) < half  # "level with ITD-BiO, and above the others"
    assert all(difference < -half for difference, half in apart.values())
    paper, exact = errors(error)
    yield (
        f"the error falls from {paper} to {exact}, and accuracy by "
        f"{accuracy[EXACT]['minus memory-reduced'].lstrip('-')} points"
    )


def one_shot(accuracy: Record, error: Record, implicit: Record) -> Iterator[str]:
    yield from shown(accuracy, error)
    paper, exact = errors(error)
    yield f"an error of {paper} or of {exact} gives the same accuracy"
    apart = accuracy[EXACT]["minus memory-reduced"]
    difference, half = (float(each) for each in apart.split(" ± "))
    assert abs(difference) < half  # "not told apart"
    reached = {name: float(cells["accuracy"].split(" ")[0]) for name, cells in accuracy.items()}
    assert max(reached, key=lambda name: reached[name]) == "r2d2"
    assert (
        max(reached[name] for name in ("maml", "maml-learn2learn", "imaml", "protonet"))
        < 34
        < 37
        < min(reached[name] for name in ("memory-reduced", "anil", "itd-bio", "r2d2"))
    )
    yield f"Finn's five steps is {reached['maml'] - reached['maml-learn2learn']:.1f} points above"
    certificate = implicit["certificate"]
    status = certificate["adjoint_status"]
    assert status["CONVERGED"] == 0
    yield f"solves no adjoint system of its {certificate['tasks']}"
    yield f"leave {status['OUT_OF_STEPS']} above tolerance, and {status['INDEFINITE']} systems"


def rates(found: Record) -> Iterator[str]:
    best = ", ".join(f"{cells['best']} for {name}" for name, cells in found.items())
    yield f"({best}; `rates.md`)"


QUOTES: Final = (
    Quote(PAGE, (f"{FC100}/accuracy.md", f"{FC100}/hypergradient.md"), fc100),
    Quote(PAGE, (f"{FC100}/rates.md",), rates),
    Quote(
        PAGE,
        tuple(
            f"{ONE_SHOT}/{f}" for f in ("accuracy.md", "hypergradient.md", "imaml-0/result.json")
        ),
        one_shot,
    ),
    Quote(PAGE, (f"{ONE_SHOT}/rates.md",), rates),
    Quote(PAGE, (f"{TIERED}/accuracy.md", f"{TIERED}/hypergradient.md"), tiered),
    Quote(PAGE, (f"{TIERED}/rates.md",), rates),
)
