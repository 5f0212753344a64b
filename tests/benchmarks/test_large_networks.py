"""What large lower levels cost: counted on small ones of the same kind."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.large_networks import (
    SOLVERS,
    Setting,
    beyond,
    measured,
    residual_network,
    rows,
    transformer,
)
from hypergrad import Neumann


@pytest.mark.filterwarnings("ignore")
def test_a_network_is_measured() -> None:
    found = measured(partial(residual_network, 8))
    # AdamW's two means and the gradient, at least
    assert found["training"]["over_weights"] > 3
    products = {name: one["products"] for name, one in found["solvers"].items()}
    assert products["Neumann(step_size=0.1, max_steps=5)"] == 5
    assert all(one["over_weights"] > 4 for one in found["solvers"].values())
    assert 0 < found["bfloat16"] < 2**-8  # a rounding of each entry by at most half of that
    assert len(rows({"networks": {"x": found}})) == 1 + len(SOLVERS)


@pytest.mark.filterwarnings("ignore")
def test_bytes_grow_with_the_weights_and_not_with_the_terms() -> None:
    setting = Setting.made(partial(transformer, 64, 1))
    setting.hypergradient(Neumann(step_size=0.1, max_steps=2), [])  # probes, the first time
    one, ten = (
        beyond(partial(setting.hypergradient, Neumann(step_size=0.1, max_steps=count), []))[0]
        for count in (2, 10)
    )
    assert ten == pytest.approx(one, rel=1e-3)
