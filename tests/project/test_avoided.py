"""Calls of other libraries that are right by looks and wrong in some cases: none is used here."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("packages", "call"),
    [
        # torch 2.13.0, eager: from a start that requires no gradient, only the last step's share of
        # the derivative comes back
        (("hypergrad", "metalearn"), "while_loop("),
        # python-flint 0.9.0: with multiple=True it encloses the eigenvalues of some matrices with
        # repeated ones and raises for others, whatever the precision. Traces and determinants do.
        (("verification",), ".eig("),
        # torch 2.13.0: the second derivative through its weight is wrong (docs/faq.md)
        (("hypergrad", "metalearn"), "weight_norm("),
        # safetensors 0.8.0: arrays that are not contiguous come back with other values
        (("hypergrad", "metalearn"), "safetensors.numpy"),
    ],
)
def test_nothing_is_built_on(packages: tuple[str, ...], call: str) -> None:
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert sources
    assert not [str(path) for path in sources if call in path.read_text(encoding="utf-8")]
