"""Ranks that are killed under torchrun: the job goes on, to the same bits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.metalearn.distributed import kills


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return kills.undisturbed(tmp_path_factory.mktemp("undisturbed") / "run")


def test_a_killed_rank_costs_time_and_nothing_else(expected: bytes, tmp_path: Path) -> None:
    outcome = kills.disturbed(tmp_path / "run", 2, expected, random.Random(1))
    said = (tmp_path / "run" / "said.log").read_text()
    assert outcome.completed, said
    assert outcome.same
    assert len(outcome.kills) == 2
    assert outcome.resumed == 2


def test_another_trajectory_is_noticed(expected: bytes, tmp_path: Path) -> None:
    """The comparison is of these settings' weights: with another seed they differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kills, "SETTINGS", [*kills.SETTINGS, "--seed=1"])
        outcome = kills.disturbed(tmp_path / "run", 0, expected, random.Random(0))
    assert outcome.completed
    assert not outcome.same
