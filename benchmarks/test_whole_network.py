"""Cost of K where the whole network is the lower level, implicit against unrolled."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.provenance import provenance
from benchmarks.whole_network import compared

SMALL = pytest.param(16, 28, 5)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("filters", "side", "steps"), [SMALL, pytest.param(64, 32, 20, marks=pytest.mark.full)]
)
def test_implicit_against_unrolled(
    benchmark: BenchmarkFixture, filters: int, side: int, steps: int
) -> None:
    found = compared(filters=filters, side=side, steps=steps, rounds=3)
    benchmark.pedantic(found.implicit, rounds=3)  # type: ignore[no-untyped-call]
    benchmark.extra_info |= provenance() | found.figures
    assert found.figures["implicit_bytes_that_a_step_adds"] == 0
