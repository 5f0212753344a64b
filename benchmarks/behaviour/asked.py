"""Runs one library's answers and calls; prints as JSON what was returned and what was said."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
import platform
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks.behaviour.problems import CASES

Answer: TypeAlias = Callable[[], Sequence[float | None]]
CALLS = Path(__file__).with_name("calls.toml")


def report(
    library: str,
    packages: Sequence[str],
    ways: Mapping[str, Mapping[str, Answer | str]],
) -> None:
    """Run every answer and every call, and print the record.

    Args:
        library: its table in calls.toml.
        packages: distributions whose versions are recorded.
        ways: by each way to use the library its answers, by case; a string says why there is none.
    """
    record = {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "ways": {
            way: {name: ask(answers[name]) for name in CASES} for way, answers in ways.items()
        },
        "calls": run_calls(library),
    }
    print(json.dumps(record))


def ask(answer: Answer | str) -> dict[str, object]:
    """Values returned, and words raised and warned; of an exception its class and first line."""
    if isinstance(answer, str):
        return {"absent": answer}
    values: list[float | str | None] | None = None
    raised = None
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            values = [None if value is None else _number(value) for value in answer()]
        except Exception as error:  # what a peer raises is what is asked here
            raised = _words(type(error), error)
    said = [_words(warning.category, warning.message) for warning in caught if _concerns(warning)]
    return {"values": values, "raised": raised, "warned": said[0] if said else None}


def run_calls(library: str) -> list[str]:
    """Execute the library's column of calls.toml, if any; one that fails ends the program."""
    with CALLS.open("rb") as file:
        tables = tomllib.load(file)
    if library not in tables:  # run beside ours, by beside.py
        return []
    table = tables[library]
    names: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exec(table["setup"], names)
        for theirs, _ in table["rows"]:
            exec(theirs, names)
    return [theirs for theirs, _ in table["rows"]]


def _concerns(caught: warnings.WarningMessage) -> bool:
    """True if a warning is about the answer, and not about names that will be removed."""
    kind = caught.category
    return not issubclass(kind, (DeprecationWarning, PendingDeprecationWarning, FutureWarning))


def _number(value: float) -> float | str:
    """A number that JSON can hold, to six digits."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def _words(kind: type, message: object) -> dict[str, str]:
    lines = str(message).strip().splitlines() or [""]
    return {"kind": kind.__name__, "text": lines[0][:160]}
