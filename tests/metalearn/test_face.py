"""The public face: ten names, each of them there and in the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

import metalearn
from metalearn.config.groups import normalised

PAGE = Path(__file__).parents[2] / "docs" / "api" / "metalearn.md"


def test_ten_names_are_there_and_have_their_row() -> None:
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if "](#metalearn" in line
    ]
    assert sorted(row.split("`")[1] for row in rows) == sorted(metalearn.__all__)
    assert len(rows) == 10
    for row in rows:
        place = row.partition("(#")[2].partition(")")[0]
        value = getattr(metalearn, row.split("`")[1])
        assert place == f"{value.__module__}.{value.__name__}"
        assert f"::: {place}\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("normalisation", "said"),
    [
        ("transductive", "transductive (accuracy of whole episodes, not of single pictures)"),
        ("stored", "stored (accuracy of single pictures, too)"),
        ("group", "group (accuracy of single pictures, too)"),
    ],
)
def test_an_accuracy_says_whose_it_is(normalisation: str, said: str) -> None:
    assert normalised(normalisation) == f"normalisation {said}"
