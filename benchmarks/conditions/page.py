"""The tables of docs/peers.md on conditions, made from the result file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
SPOT = re.compile(r"<!-- conditions:(?P<what>\w+) -->\n.*?<!-- end -->", flags=re.DOTALL)
POINTS = {
    "bound": "φ ≥ 0 at θ = (−1, 0, 1): (0, 0 or 1, 1)",
    "kink": "lasso at its knot: −1 or 0",
}


def filled(text: str, results: dict[str, Any]) -> str:
    """The page with every marked spot written anew."""
    made = {"times": times, "degenerate": degenerate, "versions": versions}
    return SPOT.sub(
        lambda match: (
            f"<!-- conditions:{match['what']} -->\n{made[match['what']](results)}\n<!-- end -->"
        ),
        text,
    )


def times(results: dict[str, Any]) -> str:
    """Errors and times, a row for each way."""
    rows = [
        "| problem | way | error of φ | of the derivative | time over ours (quartiles) |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for problem in results["problems"]:
        name = problem["problem"]
        for row in problem["rows"]:
            low, high = row["ratio_quartiles"]
            wrong = row["derivative_error"]
            cells = (
                name,
                f"{row['package']}: {row['how']}",
                f"{row['solution_error']:.0e}",
                "–" if wrong is None else f"{wrong:.0e}",
                f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
            )
            rows.append(f"| {' | '.join(cells)} |")
            name = ""
    return "\n".join(rows)


def degenerate(results: dict[str, Any]) -> str:
    """Answers and words where only one-sided derivatives exist."""
    rows = ["| point, and its one-sided derivatives | library | returned | said |"]
    rows.append("| --- | --- | --- | --- |")
    for point, answers in results["degenerate"].items():
        name = POINTS[point]
        for package, answer in answers.items():
            values = ", ".join(f"{value + 0.0:.3g}" for value in answer["values"])
            said = answer["warned"]
            words = "nothing" if said is None else f"warns (`{said['kind']}`)"
            rows.append(f"| {name} | {package} | {values} | {words} |")
            name = ""
    return "\n".join(rows)


def versions(results: dict[str, Any]) -> str:
    """Libraries that were run, with their versions."""
    return ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
