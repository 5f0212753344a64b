"""Ranks that are killed under torchrun: the job goes on, to the same bits."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.metalearn.distributed import broken, kills
from tests.metalearn.distributed.ranks import ranks


def undisturbed(folder: Path, *more: str) -> bytes:
    """The weights that no kill leads to, of two ranks that are started at less cost."""
    arguments = (f"--run={folder / 'run'}", *kills.SETTINGS, *more)
    ended = ranks(2, broken.nothing_broken, *arguments, folder=folder)
    assert [rank.code for rank in ended] == [0, 0], ended
    return (folder / "run" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


def test_a_killed_rank_costs_time_and_nothing_else(expected: bytes, tmp_path: Path) -> None:
    outcome = kills.disturbed(tmp_path / "run", 1, expected, random.Random(1))
    said = (tmp_path / "run" / "said.log").read_text()
    assert outcome.completed, said
    assert outcome.same
    assert len(outcome.kills) == 1
    assert outcome.resumed == 1


def test_another_trajectory_has_other_weights(
    expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another seed the weights differ, and the comparison says so."""
    other = undisturbed(tmp_path, "--seed=1")
    assert other != expected

    def finished(folder: Path, *, restarts: int) -> subprocess.Popen[bytes]:
        shutil.copytree(tmp_path / "run", folder / "run")
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(kills, "torchrun", finished)
    for weights, same in ((other, True), (expected, False)):
        outcome = kills.disturbed(tmp_path / f"{same}", 0, weights, random.Random(0))
        assert outcome.completed
        assert outcome.same is same
