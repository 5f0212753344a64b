"""The tables of docs/coming-from.md, made from the result file and calls.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.behaviour.asked import CALLS
from benchmarks.behaviour.beyond import tables
from benchmarks.behaviour.environments import PEERS
from benchmarks.behaviour.problems import CASES

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
SPOT = re.compile(r"<!-- (?P<what>(?!end )\w+) -->\n.*?<!-- end -->", flags=re.DOTALL)


def filled(text: str, results: dict[str, Any]) -> str:
    """The page with every marked spot written anew."""

    def spot(match: re.Match[str]) -> str:
        what = match["what"]
        return f"<!-- {what} -->\n{table(what, results)}\n<!-- end -->"

    return SPOT.sub(spot, text)


def table(what: str, results: dict[str, Any]) -> str:
    """The table for one marked spot: `cases`, `versions`, or a library's name."""
    if what == "cases":
        return _cases()
    if what == "beyond":
        return _beyond(results["libraries"])
    if what == "versions":
        return _versions(results["libraries"])
    answers, calls = _answers(what, results["libraries"]), _calls(what)
    return f"{answers}\n\n{calls}" if calls else answers


def _cases() -> str:
    rows = ["| case | the right answer | problem |", "| --- | --- | --- |"]
    for case in CASES.values():
        rows.append(f"| {case.title} | {_numbers(case.truth, none='none')} | {case.why} |")
    return "\n".join(rows)


def _versions(libraries: dict[str, Any]) -> str:
    rows = ["| library | run with |", "| --- | --- |"]
    for name, peer in PEERS.items():
        record = libraries[name]
        if "failed" in record:
            wanted = ", ".join(peer.alone)
            rows.append(f"| {peer.title} | left out; {wanted}: `{record['failed']}` |")
        elif peer.beyond:
            versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
            rows.append(f"| [{peer.title}](#beyond) | {versions} |")
        else:
            versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
            if peer.alone and peer.alone[-1].startswith("git+"):  # of no release
                versions = f"commit {peer.alone[-1].rpartition('@')[2][:12]}, {versions}"
            rows.append(f"| [{peer.title}](#{name}) | {versions} |")
    return "\n".join(rows)


def _beyond(libraries: dict[str, Any]) -> str:
    rows = ["| library | asked | right | answer | here |", "| --- |" + " --- |" * 4]
    for name, table in tables().items():
        answers = zip(
            table["rows"],
            libraries[name]["beyond"],
            libraries["hypergrad"]["beyond"][name],
            strict=True,
        )
        for (asked, right, *_), theirs, here in answers:
            cells = f"{_numbers(right, none='none')} | {_cell(theirs)} | {_cell(here)}"
            rows.append(f"| {PEERS[name].title} | {asked} | {cells} |")
    return "\n".join(rows)


def _answers(name: str, libraries: dict[str, Any]) -> str:
    ways = libraries[name]["ways"]
    ours = libraries["hypergrad"]["ways"]["attach"]
    heads = " | ".join(f"`{way}`" for way in ways)
    rows = [f"| case | right | {heads} | here, `attach` |", "| --- |" + " --- |" * (len(ways) + 2)]
    for key, case in CASES.items():
        cells = " | ".join(_cell(answers[key]) for answers in ways.values())
        right = _numbers(case.truth, none="none")
        rows.append(f"| {case.title} | {right} | {cells} | {_cell(ours[key])} |")
    return "\n".join(rows)


def _calls(name: str) -> str:
    """The table of calls of a library; empty if they are run beside ours (beside.py)."""
    with CALLS.open("rb") as file:
        table = tomllib.load(file)
    if name not in table:
        return ""
    pairs = table[name]["rows"]
    rows = [f"| {PEERS[name].title} | here |", "| --- | --- |"]
    return "\n".join(rows + [f"| {code(theirs)} | {code(here)} |" for theirs, here in pairs])


def _cell(answer: dict[str, Any]) -> str:
    """Returned values and words, short."""
    if "absent" in answer:
        return f"– ({answer['absent']})"
    if answer["raised"]:
        return f"raises `{answer['raised']['kind']}`"
    said = f", warns (`{answer['warned']['kind']}`)" if answer["warned"] else ""
    return _numbers(answer["values"], none="None") + said


def _numbers(values: Any, *, none: str) -> str:
    words = [none if value is None else _short(value) for value in values]
    return words[0] if len(words) == 1 else f"({', '.join(words)})"


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value + 0.0:.4g}"


def code(text: str) -> str:
    """Lines of code in a cell of a table."""
    return "<br>".join(f"`{line.replace('|', chr(92) + '|')}`" for line in text.splitlines())
