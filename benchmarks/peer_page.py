"""The tables on peers in README.md and docs/peers.md, made from the result file.

python -m benchmarks.peer_page
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULT: Final = ROOT / "benchmarks" / "results" / "peers.json"
PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "peers.md")
SPOT: Final = re.compile(r"<!-- peers:(?P<what>\w+) -->\n.*?<!-- end -->", flags=re.DOTALL)

Record = dict[str, Any]


def filled(text: str, results: Record) -> str:
    """A page with every marked spot written anew."""
    return SPOT.sub(
        lambda match: (
            f"<!-- peers:{match['what']} -->\n{TABLES[match['what']](results)}\n<!-- end -->"
        ),
        text,
    )


def times(results: Record) -> str:
    """Errors and times, a row for each way."""
    rows = [
        "| problem | way | error | time over ours | time over jaxopt's |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for found in results["rows"].values():
        name = found["name"]
        for given in dict.fromkeys(method["given"] for method in found["methods"]):
            for method in found["methods"]:
                if method["given"] != given:
                    continue
                way = f"{method['package']}: {method['how']}"
                if given != "values":
                    way += ", derivatives given"
                cells = (name, way, f"{method['error']:.0e}", *_ratios(method))
                rows.append(f"| {' | '.join(cells)} |")
                name = ""
    return "\n".join(rows)


def short(results: Record) -> str:
    """Times of each hypergradient: torchopt's over ours, and ours over compiled jaxopt's."""
    rows = [
        "| problem, given as values | torchopt over this | this over jaxopt under jit |",
        "| --- | ---: | ---: |",
    ]
    for name in ("quadratic-10", "quadratic-100", "quadratic-1000", "logistic", "tasks-256"):
        found = results["rows"][name]
        ours, theirs = (_fastest(found, package) for package in ("hypergrad", "torchopt"))
        cells = (
            found["name"],
            f"{theirs['ratio'] / ours['ratio']:.2f}",
            f"{ours['over_jaxopt']:.2f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def versions(results: Record) -> str:
    """Libraries that were run, with their versions."""
    origin = results["provenance"]
    named = [f"torch {origin['torch']}"]
    named += [f"{name} {version}" for name, version in origin["peers"].items()]
    return ", ".join(named) + "."


TABLES: Final[dict[str, Callable[[Record], str]]] = {
    "times": times,
    "short": short,
    "versions": versions,
}


def _ratios(method: Record) -> tuple[str, str]:
    unequal = "" if method["equal_error"] else ", not at equal error"
    over = method.get("over_jaxopt")
    return (
        f"{_short(method['ratio'])}{unequal}",
        "" if over is None else _short(over),
    )


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"


def _fastest(found: Record, package: str) -> Record:
    """The fastest way of a package at equal error, given values only."""
    equal = [
        method
        for method in found["methods"]
        if method["package"] == package and method["given"] == "values" and method["equal_error"]
    ]
    fastest: Record = min(equal, key=lambda method: float(method["ratio"]))
    return fastest


def main() -> None:
    results = json.loads(RESULT.read_text(encoding="utf-8"))
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
