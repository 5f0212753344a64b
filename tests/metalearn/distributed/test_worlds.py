"""The number of ranks decides nothing that is computed, but for rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn.config.groups import EpisodeShape
from metalearn.config.train import TrainConfig
from metalearn.training import checkpoint
from tests.metalearn.distributed import worlds
from tests.metalearn.distributed.ranks import ranks

STEPS = 8
BOTH = ("paper", "float32, solved to its tolerance")
COMMON: dict[str, Any] = {
    "filters": 4,
    "train": EpisodeShape(way=3),
    "test": EpisodeShape(way=3),
    "tasks_per_step": 5,  # which neither 2 nor 4 divides
    "steps": STEPS,
    "validation_episodes": 21,
    "device": "cpu",  # validation: 20 together, and one
    "threads": 1,
}
# Steps given, solves to precision and to a tolerance, running averages, a closed form, chunks.
CONFIGS = {
    "paper": TrainConfig().replace(method="memory-reduced", precision="float64", **COMMON),
    "solved": TrainConfig().replace(precision="float64", normalisation="stored", **COMMON),
    "ridge": TrainConfig().replace(
        method="r2d2",
        precision="float64",
        tasks_per_chunk=2,
        normalisation="transductive",
        **COMMON,
    ),
    "float32": TrainConfig().replace(method="memory-reduced", **COMMON),
    "float32, solved to its tolerance": TrainConfig().replace(**COMMON),
}


def trained(
    size: int,
    out: Path,
    names: Iterable[str] = CONFIGS,
    *,
    steps: int = STEPS,
    start: Path | None = None,
) -> list[dict[str, dict[str, Tensor]]]:
    """Of each rank, each run's tensors."""
    out.mkdir()
    chosen = {name: CONFIGS[name] for name in names}
    ended = ranks(size, worlds.train, chosen, steps, start, out, folder=out)
    assert [rank.code for rank in ended] == [0] * size, ended
    return [
        {name: checkpoint.load(out / str(rank) / name)[0] for name in chosen}
        for rank in range(size)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    return trained(1, tmp_path_factory.mktemp("alone") / "out")[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return trained(2, tmp_path_factory.mktemp("two") / "out")


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a weight or a running average."""
    names = [name for name in expected if name.startswith("model.")]
    assert names
    assert found.keys() == expected.keys()
    return max((found[n].double() - expected[n].double()).abs().max().item() for n in names)


# The promise: rounding of relative size u in a gradient moves a weight by some 10 u of a step of
# Adam's; 8 steps of 1e-3 with u = 1.1e-16 and 6e-8 stay far below.
def tolerance(name: str) -> float:
    return 1e-5 if name.startswith("float32") else 1e-12


def agree(found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> None:
    for name in found:
        far = distance(found[name], expected[name])
        assert far <= tolerance(name), (name, far)
        torch.testing.assert_close(
            found[name]["losses"], expected[name]["losses"], rtol=1e-5, atol=1e-5
        )
        # the certificates are those of all tasks in their order, kept in float32; where steps are
        # given, the residuals are smooth in the weights, task by task
        key = "certificates.stationarity"
        assert len(found[name][key]) == STEPS * 5
        if name == "paper":
            torch.testing.assert_close(found[name][key], expected[name][key])
        if name == "solved":
            assert torch.equal(found[name]["validation"], expected[name]["validation"])


def test_two_ranks_train_as_one_does(
    two: list[dict[str, dict[str, Tensor]]], alone: dict[str, dict[str, Tensor]]
) -> None:
    agree(two[0], alone)


def test_four_ranks_train_as_one_does(tmp_path: Path, alone: dict[str, dict[str, Tensor]]) -> None:
    agree(trained(4, tmp_path / "out")[3], alone)


def test_all_ranks_hold_the_same_bits_in_every_run(
    two: list[dict[str, dict[str, Tensor]]], tmp_path: Path
) -> None:
    (again, _) = trained(2, tmp_path / "out", BOTH)
    for name in BOTH:
        assert all(torch.equal(again[name][k], v) for k, v in two[0][name].items()), name
    for name in CONFIGS:
        for key, value in two[0][name].items():
            # each rank drops activations of its own
            assert key == "generator.cpu" or torch.equal(two[1][name][key], value), (name, key)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4)])
def test_another_number_of_ranks_goes_on_with_a_run(
    before: int, after: int, tmp_path: Path, alone: dict[str, dict[str, Tensor]]
) -> None:
    trained(before, tmp_path / "first", BOTH, steps=5)
    first = tmp_path / "first" / "0"
    for name in BOTH:  # the test's own addition is no part of a state
        tensors, progress = checkpoint.load(first / name)
        del tensors["validation"]
        checkpoint.save(first / name, tensors, progress)
    agree(trained(after, tmp_path / "rest", BOTH, steps=STEPS - 5, start=first)[0], alone)


@pytest.mark.parametrize(
    "planted", [worlds.train_with_a_wrong_share, worlds.train_with_equal_weights]
)
def test_a_planted_bug_is_noticed(
    planted: Callable[..., None], tmp_path: Path, alone: dict[str, dict[str, Tensor]]
) -> None:
    subject = {"paper": CONFIGS["paper"]}
    ended = ranks(2, planted, subject, STEPS, tmp_path, folder=tmp_path)
    assert [rank.code for rank in ended] == [0, 0], ended
    found, _ = checkpoint.load(tmp_path / "0" / "paper")
    assert distance(found, alone["paper"]) > 1e6 * tolerance("paper")
