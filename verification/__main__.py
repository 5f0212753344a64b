"""``python -m verification``: run the suite, or draw the report of a run again.

python -m verification run --size small --out DIR
python -m verification report --out DIR
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from verification.record import record, write, write_json
from verification.report import html
from verification.runner import Outcome, run
from verification.series import all_series, violations
from verification.subjects import memory_reduced
from verification.suite import SIZES, suite
from verification.table import detection, progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 if every claim holds, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m verification", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="put every claim to the library and planted bugs")
    running.add_argument("--size", choices=SIZES, default="small", help="how many problems")
    running.add_argument("--out", type=Path, required=True, help="folder of the report")
    drawing = commands.add_parser("report", help="draw report.html from report.json again")
    drawing.add_argument("--out", type=Path, required=True, help="folder that holds report.json")
    options = parser.parse_args(arguments)
    console = Console()
    if options.command == "report":
        text = (options.out / "report.json").read_text(encoding="utf-8")
        write(html(json.loads(text)), options.out / "report.html")
        return 0

    began = time.perf_counter()
    with Live(console=console, refresh_per_second=4) as live:

        def watch(outcome: Outcome) -> None:
            live.update(progress(outcome, time.perf_counter() - began))

        outcome = run(suite(), options.size, watch=watch)
        outcome.series = all_series(memory_reduced)
        outcome.problems += violations(outcome.series)
        watch(outcome)
    console.print(detection(outcome))
    report = record(outcome, seconds=time.perf_counter() - began)
    write_json(report, options.out / "report.json")
    write(html(report), options.out / "report.html")
    for problem in outcome.problems:
        console.print(f"FAILS: {problem}", style="bold red", highlight=False, markup=False)
    verdict = "fails" if outcome.problems else "passes"
    console.print(f"the run {verdict} after {report['seconds']:.0f} s: see report.html")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
