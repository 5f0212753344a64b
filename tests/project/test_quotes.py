"""What pages quote is what result files hold, and no result file is left unbound."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from metalearn.report.collect import collect
from metalearn.report.tables import accuracy_table, hypergradient_table
from tests.project.quotes import comparisons, experiments, minibatches, others, performance
from tests.project.quotes.quote import ROOT, Quote, read

QUOTES = (
    *performance.QUOTES,
    *experiments.QUOTES,
    *comparisons.QUOTES,
    *others.QUOTES,
    *minibatches.QUOTES,
)
# Result files that pages take whole tables from, by commands: tests/benchmarks/test_pages.py.
TABLES = {
    f"benchmarks/results/{name}.json"
    for name in ("behaviour", "beside", "conditions", "numerics", "double_backward", "peers")
}

# Names of what was asked for rather than found: rows are picked by them.
SETTINGS = {"K", "N", "tasks", "shot", "query", "seed"}


def shifted(record: Any, factors: Iterator[float]) -> Any:
    """The same record with other numbers, each changed by a share of its own."""
    if isinstance(record, dict):
        return {
            key: value if key in SETTINGS else shifted(value, factors)
            for key, value in record.items()
        }
    if isinstance(record, list):
        return [shifted(value, factors) for value in record]
    if isinstance(record, bool):
        return record
    if isinstance(record, float):
        return record * next(factors) + 0.01
    if isinstance(record, int):
        return int(record * next(factors)) + 1
    if isinstance(record, str) and re.fullmatch(r"[-+]?\d.*|–", record):  # a table's cell
        return re.sub(r"\d", lambda digit: str((int(digit[0]) + 3) % 10), record)
    return record


@pytest.mark.parametrize("quote", QUOTES, ids=str)
def test_a_page_says_what_its_result_file_does(quote: Quote) -> None:
    assert quote.pieces()
    assert not quote.missing()


@pytest.mark.parametrize("quote", QUOTES, ids=str)
def test_a_result_file_with_other_numbers_is_noticed(quote: Quote) -> None:
    factors = (1.3 + 0.05 * (n % 7) for n in itertools.count())
    planted = [shifted(read(file), factors) for file in quote.files]
    try:
        pieces = quote.pieces(planted)
    except AssertionError:  # what a page says in words no longer holds
        return
    assert quote.missing(planted) == pieces


def test_every_result_file_that_a_page_names_is_bound() -> None:
    bound = TABLES | {file for quote in QUOTES for file in quote.files}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        file
        for page in pages
        for file in re.findall(
            r"(?:benchmarks/)?results/[\w./-]+\.json", page.read_text(encoding="utf-8")
        )
        if (ROOT / file).is_file()
    }
    assert named
    assert named <= bound, f"a Quote for each in tests/project/quotes: {named - bound}"


def test_every_result_file_of_the_benchmarks_is_bound() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks/results").glob("*.json")}
    bound = TABLES | {file for quote in QUOTES for file in quote.files}
    assert files <= bound, f"a Quote for each in tests/project/quotes: {files - bound}"


@pytest.mark.parametrize(
    "folder", [experiments.CIFAR, comparisons.ONE_SHOT, comparisons.FC100, comparisons.TIERED]
)
def test_the_tables_of_a_comparison_are_those_of_its_runs(folder: str) -> None:
    out = ROOT / folder
    runs = collect(out)
    tables = {
        "accuracy": accuracy_table(runs, reference="memory-reduced"),
        "hypergradient": hypergradient_table(runs),
    }
    for name, rows in tables.items():
        assert (out / f"{name}.md").read_text(encoding="utf-8") == rows.markdown()
