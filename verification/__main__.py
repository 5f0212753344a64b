"""``python -m verification``: run the suite, or draw its report again.

python -m verification run --size small --out DIR
python -m verification run --size small --claims "exact solves,Theorem A" --out DIR
python -m verification report --out DIR
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from verification.report.curves import SERIES
from verification.report.page import html
from verification.report.record import record, write, write_json
from verification.report.table import detection, progress
from verification.suite.model import SIZES
from verification.suite.registry import suite
from verification.suite.runner import Outcome, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 if every claim holds, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m verification",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="put every claim to the library and planted bugs")
    running.add_argument("--size", choices=SIZES, default="small", help="how many problems")
    running.add_argument("--out", type=Path, required=True, help="folder of the report")
    running.add_argument("--claims", help="only these, by name, with commas between them")
    running.add_argument(
        "--bugs", choices=("all", "none"), default="all", help="whether to plant bugs (all)"
    )
    running.add_argument("--workers", type=int, default=2, help="processes (2)")
    drawing = commands.add_parser("report", help="draw report.html from report.json again")
    drawing.add_argument("--out", type=Path, required=True, help="folder that holds report.json")
    options = parser.parse_args(arguments)
    if options.command == "report":
        text = (options.out / "report.json").read_text(encoding="utf-8")
        write(html(json.loads(text)), options.out / "report.html")
        return 0
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; it must be at least 1.")
    claims = None if options.claims is None else tuple(options.claims.split(","))
    try:
        suite() if claims is None else suite().only(claims)
    except ValueError as error:
        parser.error(str(error))
    # one thread for each process, those that are started included
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    console = Console()
    began = time.perf_counter()
    with Live(console=console, refresh_per_second=4) as live:

        def watch(outcome: Outcome) -> None:
            live.update(progress(outcome, time.perf_counter() - began))

        outcome = run(
            suite,
            options.size,
            claims=claims,
            bug_seeds=0 if options.bugs == "none" else None,
            workers=options.workers,
            watch=watch,
        )
    series = [] if claims is not None else [curves for draw in SERIES for curves in draw()]
    outcome.failures += [words for curves in series for words in curves.violations()]
    console.print(detection(outcome))
    report = record(outcome, series, seconds=time.perf_counter() - began)
    write_json(report, options.out / "report.json")
    write(html(report), options.out / "report.html")
    for failure in outcome.failures:
        console.print(f"FAILS: {failure}", style="bold red", highlight=False, markup=False)
    verdict = "fails" if outcome.failures else "passes"
    console.print(
        f"the run {verdict} after {report['seconds']:.0f} s, "
        f"{report['different_problems']} different problems (tasks); see report.html"
    )
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
