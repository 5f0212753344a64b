"""The regression gate: figures that do not depend on the machine against a committed baseline.

    python -m benchmarks.gate            compare; fails with a table of what rose (make bench-check)
    python -m benchmarks.gate --record   write the baseline anew (make bench-baseline)

A figure that rose by more than its kind's margin fails, and so does one that is new or gone: the
baseline is then recorded, on purpose, in the same commit as the cause. A figure that fell is
reported and passes: record it, or the next rise up to the old value goes unseen.

Margins, and why they are what they are:

- counts (convolutions, passes, products, imported modules) are exact: none.
- bytes are exact for one version of torch: 1 % lets another version save a small tensor more. What
  a lower step adds where nothing may be added is 0, and stays 0.
- operations below autograd: 5 %, for decompositions that differ between versions. A product more
  in each step of CG or a loop over four tasks adds 30 % and more.
- time is process time over that of the backbone's own pass a moment before or after, the median
  over rounds. Other processes' work does not count, but what they leave of caches and of the
  memory's bandwidth does, and it changes from second to second: a ratio of two least times, each
  from a moment of its own, was off by a third on a loaded machine. 25 % is for the rest of it
  (`--repeat 20` takes the times so often in a row); counts see what is smaller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Kind, counted, generic, imported, timed
from benchmarks.provenance import provenance, write
from benchmarks.timing import keep_pages

BASELINE: Final = Path(__file__).parent / "baseline.json"
MARGINS: Final[dict[Kind, float]] = {"count": 0.0, "bytes": 0.01, "operations": 0.05, "time": 0.25}

Verdict: TypeAlias = Literal["rose", "fell", "new", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One figure that is not as in the baseline.

    Attributes:
        name: the figure's.
        before: in the baseline; None if it is not there.
        now: None if it is no longer made.
        verdict: meaning of the change.
    """

    name: str
    before: float | None
    now: float | None
    verdict: Verdict

    @property
    def fails(self) -> bool:
        """True if the gate closes."""
        return self.verdict != "fell"


def moved(baseline: dict[str, Figure], now: dict[str, Figure]) -> list[Move]:
    """Figures that differ from the baseline by more than their margin."""
    found = []
    for name in [*baseline, *(name for name in now if name not in baseline)]:
        before, after = baseline.get(name), now.get(name)
        verdict: Verdict | None = None
        if before is None:
            verdict = "new"
        elif after is None:
            verdict = "gone"
        else:
            margin = MARGINS[after.kind] * abs(before.value)
            if not after.value <= before.value + margin:  # NaN rose
                verdict = "rose"
            elif after.value < before.value - margin:
                verdict = "fell"
        if verdict is not None:
            found.append(
                Move(
                    name=name,
                    before=None if before is None else before.value,
                    now=None if after is None else after.value,
                    verdict=verdict,
                )
            )
    return found


def table(moves: list[Move]) -> Table:
    """Table of the figures that moved, for a terminal."""
    made = Table(title="what moved")
    for index, column in enumerate(("figure", "baseline", "now", "by", "")):
        made.add_column(column, justify="right" if 0 < index < 4 else "left")
    for move in sorted(moves, key=lambda move: not move.fails):
        by = math.nan
        if move.before and move.now is not None:
            by = move.now / move.before - 1
        made.add_row(
            move.name,
            _number(move.before),
            _number(move.now),
            "" if math.isnan(by) else f"{by:+.1%}",
            move.verdict if move.fails else f"{move.verdict}: record it",
            style="red" if move.fails else "green",
        )
    return made


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"


def load(path: Path = BASELINE) -> dict[str, Figure]:
    """The committed figures."""
    recorded = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {name: Figure(**figure) for name, figure in recorded.items()}


def record(figures: dict[str, Figure], path: Path = BASELINE) -> None:
    """Write the baseline."""
    plain = {name: dataclasses.asdict(figure) for name, figure in figures.items()}
    write(path, {"provenance": provenance(), "figures": plain})


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write the baseline anew")
    parser.add_argument("--repeat", type=int, default=1, help="take times so often in a row")
    parser.add_argument("--out", type=Path, help="a file for the times of all repeats")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    console = Console(width=120)
    if asked.record:
        record(counted() | generic() | imported() | timed())
        console.print(f"recorded in {BASELINE}: commit it with what changed it", highlight=False)
        return
    baseline, origin = load(), provenance()
    passed, times = 0, []
    # the same on every run (tests/benchmarks/test_gate.py)
    counts = counted() | generic() | imported()
    for _ in range(asked.repeat):
        now = counts | timed()
        moves = moved(baseline, now)
        if moves:
            console.print(table(moves))
        failed = sum(move.fails for move in moves)
        summary = f"{len(now)} figures: {failed} failed, {len(moves) - failed} improved"
        console.print(summary, highlight=False)
        passed += not failed
        times.append({name: one.value for name, one in now.items() if one.kind == "time"})
    if asked.out is not None:
        load_average = os.getloadavg()[0]
        found = {"runs": asked.repeat, "passed": passed, "load": load_average, "times": times}
        write(asked.out, {"provenance": origin} | found)
    if passed < asked.repeat:
        sys.exit("what rose is a regression, or is recorded on purpose by make bench-baseline")


if __name__ == "__main__":
    main()
