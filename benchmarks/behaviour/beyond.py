"""Answers to what was met beyond the eight cases: one column of beyond.toml.

    python -m benchmarks.behaviour.beyond LIBRARY DISTRIBUTION...

prints a library's record with these versions; of hypergrad, the other column for all libraries.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.behaviour.asked import ask

ROWS = Path(__file__).with_name("beyond.toml")


def tables() -> dict[str, Any]:
    """By library, the code before both columns and the rows."""
    with ROWS.open("rb") as file:
        return tomllib.load(file)


def theirs(library: str) -> list[dict[str, object]]:
    """The library's answers, in its own environment."""
    table = tables()[library]
    return _answered(table["setup"], [row[2] for row in table["rows"]])


def ours() -> dict[str, list[dict[str, object]]]:
    """This library's answers to all rows."""
    return {
        library: _answered(table["here"], [row[3] for row in table["rows"]])
        for library, table in tables().items()
    }


def _answered(setup: str, expressions: list[str]) -> list[dict[str, object]]:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(setup, names)
    return [ask(partial(eval, expression, names)) for expression in expressions]


if __name__ == "__main__":
    library, *packages = sys.argv[1:]
    record = {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "beyond": ours() if library == "hypergrad" else theirs(library),
    }
    print(json.dumps(record))
