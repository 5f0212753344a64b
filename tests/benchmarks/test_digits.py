"""The digits with wrong labels: every adjoint runs, and its weights find some of them."""

from __future__ import annotations

import pytest

from benchmarks.digits import ADJOINTS, run, summary


@pytest.mark.parametrize("name", ['CG(damping="auto", rtol=1e-3, max_steps=100)'])
def test_weights_of_the_automatic_damping_find_wrong_labels(name: str) -> None:
    # 2 of the 25 upper steps; without a derivative the area would be 0.5
    found = run(ADJOINTS[name], 0, steps=2)
    assert found.auc > 0.6
    assert set(found.statuses) <= {"DAMPED", "CONVERGED"}
    assert len(found.products) == 2
    assert found.warned <= 2
    assert summary([found])["auc"] == found.auc


def test_without_weights_nothing_is_found() -> None:
    found = run(None, 0, steps=1, epochs=1)
    assert (found.auc, found.warned, found.products) == (0.5, 0, [])
