"""The comparison of curvatures: what is right is right, and bytes are counted."""

from __future__ import annotations

from typing import Any

from benchmarks.curvatures import compared


def test_exact_curvatures_agree_and_the_others_do_not() -> None:
    found: Any = compared(width=12, depth=2, examples=16, rounds=1)
    assert found["parameters"] == 12 * 12 + 12 * 10
    errors = {name: way["relative_error"] for name, way in found["ways"].items()}
    # ten float32 steps at a condition number near 1: some hundred units of rounding
    assert max(errors["Hessian"], errors["ForwardOverReverse"]) < 1e-4
    assert errors["GaussNewton"] > 1e-4  # it is another matrix
    assert all(way["bytes"] > 0 for way in found["ways"].values())
