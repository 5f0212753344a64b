"""Figures that a page quotes from a result file, as the sentences they stand in.

A quote is a function from the contents of result files to pieces of a page's text. Each piece must
stand in the page, so that a page and its file can't come apart: neither by a page that is edited by
hand nor by a file that is recorded anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

ROOT: Final = Path(__file__).parents[3]
Record: TypeAlias = Any
"""What a result file holds, as JSON has it."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Text of a page that follows from result files.

    Attributes:
        page: the page, from the repository's root.
        files: the result files, from there too.
        text: pieces of the page, given the contents of each file in order.
    """

    page: str
    files: tuple[str, ...]
    text: Callable[..., Iterable[str]]

    def __str__(self) -> str:
        return f"{self.page}: {self.files[0]}"

    def pieces(self, records: Iterable[Record] | None = None) -> list[str]:
        """The pieces, of the files as they are or of other contents."""
        found = [read(file) for file in self.files] if records is None else list(records)
        return [words(piece) for piece in self.text(*found)]

    def missing(self, records: Iterable[Record] | None = None) -> list[str]:
        """The pieces that the page does not have."""
        page = words((ROOT / self.page).read_text(encoding="utf-8"))
        return [piece for piece in self.pieces(records) if piece not in page]


def words(text: str) -> str:
    """Text without its line breaks, which a page may move."""
    return " ".join(text.split())


@cache
def read(file: str) -> Record:
    """A result file's contents: JSON, a list of lines, or a Markdown table by row and column."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    if not file.endswith(".md"):
        return json.loads(text)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    return {name: dict(zip(columns[1:], cells, strict=True)) for name, *cells in rows}


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage."""
    return f"{100 * share:.{digits}f}"


def row(*cells: str) -> str:
    """A row of a table of a page."""
    return f"| {' | '.join(cells)} |"
