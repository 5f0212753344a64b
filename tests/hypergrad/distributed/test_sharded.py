"""A lower level in parts on two ranks: as in one process, or an error on both."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from hypergrad.distributed import Sharded, shared
from hypergrad.distributed.agreement import fingerprint
from hypergrad.distributed.operators import shared_node
from hypergrad.errors import InputError
from hypergrad.graph import custom_functions
from tests.hypergrad.distributed import cases, wrapped
from tests.hypergrad.distributed.cases import PARTS, Found, Here
from tests.hypergrad.distributed.work import work
from tests.metalearn.distributed.ranks import ranks

Results: TypeAlias = list[dict[str, Found | str]]
Case: TypeAlias = Callable[[Here], Found]
EQUAL: list[Case] = [*cases.CASES, *wrapped.CASES]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each of two ranks found in all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = ranks(PARTS, work, folder, folder=folder)
    assert [rank.code for rank in ended] == [0] * PARTS, ended
    return [torch.load(folder / f"{rank}.pt") for rank in range(PARTS)]


@pytest.mark.parametrize("case", EQUAL, ids=lambda case: case.__name__)
def test_two_ranks_find_what_one_process_finds(case: Case, results: Results) -> None:
    whole = case(Here(None))
    for rank, found in enumerate(results):
        mine = found[case.__name__]
        assert not isinstance(mine, str), mine
        assert mine.keys() == whole.keys()
        for name, value in whole.items():
            want = value[cases.ROWS[rank]] if name == "weights" else value
            assert value.abs().max() > 0 or name == "status", name
            # systems of condition below 100 in float64, solved to 1e-13
            assert torch.allclose(mine[name], want, rtol=1e-12, atol=1e-12), (
                name,
                mine[name],
                want,
            )


@pytest.mark.parametrize("case", ["adjoints", "certificate", "uneven", "ddp_below"])
def test_the_ranks_hold_the_same_bits(case: str, results: Results) -> None:
    first, second = (found[case] for found in results)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


FAULTS = {
    "another_phi": "RankError: phi differs between the ranks",
    "another_theta": "RankError: theta differs between the ranks",
    "another_loss": r"RankError: .*d f/d phi differs .*distributed\.shared\(phi\)",
    "loss_on_one_rank": "RankError: .*d f/d phi differs",
    "another_loss_of_argmin": "RankError: the derivative of the upper loss in phi",
    "another_loss_unrolled": "RankError: the derivative of the upper loss in phi",
    "another_loss_of_a_total": "RankError: a derivative of the total",
    "other_tasks": "RankError: .*values of different shapes",
    "other_shapes": "RankError: .*same names, shapes and dtypes",
    "no_sum": "RankError: d g/d phi differs .*a sum over the ranks is missing",
    "no_sum_in_products": "RankError: v differs .*a sum over the ranks is missing",
    "sharded_tensors": r"InputError: phi is a DTensor, .*\.full_tensor\(\)",
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_differs_is_an_error_on_both_ranks(case: str, results: Results) -> None:
    for found in results:
        said = found[case]
        assert isinstance(said, str)
        assert re.match(FAULTS[case], said), said


def test_where_a_part_raises_the_other_rank_does_not_wait(results: Results) -> None:
    first, second = (found["part_raises"] for found in results)
    assert isinstance(first, str)
    assert first.startswith("RankError: the part of the lower")
    assert "rank 1" in first
    assert isinstance(second, dict)
    assert set(second) == {"of rank 1"}


def test_a_captured_tensor_of_one_rank_leaves_none_waiting(results: Results) -> None:
    first, second = (found["captured_on_one_rank"] for found in results)
    assert isinstance(second, str)
    assert "neither in theta nor in phi" in second
    assert isinstance(first, str)
    assert first.startswith("RankError")


def test_an_evaluation_takes_three_messages_and_a_product_one(results: Results) -> None:
    for found in results:
        messages = found["messages"]
        assert isinstance(messages, dict)
        # bits of phi and theta twice; who failed, the shape twice, two leaves; g and the weight
        assert messages["evaluation"].tolist() == [2, 5, 2]
        assert messages["gradient"].tolist() == [cases.D]
        assert messages["product"].tolist() == [cases.D]


def square(theta: Tensor, phi: Tensor) -> Tensor:
    return (phi - theta).square().sum()


def test_one_process_must_initialise_torch_distributed_too() -> None:
    lower = Sharded(square)
    with pytest.raises(InputError, match="init_process_group"):
        lower(torch.ones(2), torch.ones(2))
    with pytest.raises(InputError, match="init_process_group"):
        shared(torch.ones(2))


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((Sharded,), {}, "the class Sharded"),
        ((square,), {"weight": -1.0}, "weight=-1.0"),
        ((square,), {"weight": float("nan")}, "weight=nan"),
    ],
)
def test_nonsense_is_refused(arguments: tuple[Any, ...], options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Sharded(*arguments, **options)


@pytest.mark.parametrize("own", [{"l2": 1}, [True, False], "theta"])
def test_own_is_a_bool_or_a_tree_like_theta(own: Any) -> None:
    with pytest.raises(InputError, match="a tree of them like theta, whose leaves are theta"):
        Sharded(square, own=own)(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_a_fingerprint_tells_any_change_and_no_copy(dtype: torch.dtype) -> None:
    values = torch.arange(1, 12).to(dtype)
    changes = [values.roll(1), -values, values[:-1], values + (torch.arange(11) == 10).to(dtype)]
    for entries in ((0, 1), (3, 4), (0, 10)):  # two signs, whose bits are the highest
        changed = values.clone()
        changed[list(entries)] *= -1
        changes.append(changed)
    if dtype.is_floating_point:
        ulp = torch.finfo(dtype).eps
        changes += [values * (1 + ulp), values * (1 - ulp / 2)]
    else:
        changes.append(~values)
    prints = [int(fingerprint(change)) for change in (values, *changes)]
    assert len(set(prints)) == len(prints)
    strided = torch.stack([values, values], dim=1)[:, 1]
    shifted = torch.cat([values[:1], values])[1:]  # begins within a word
    assert {int(fingerprint(copy)) for copy in (strided, shifted)} == {prints[0]}


def test_a_fingerprint_sees_every_entry_and_place_of_many() -> None:
    many = torch.zeros(2**20 + 3)  # several parts, and a rest
    first = int(fingerprint(many))
    seen = {first}
    for place in (0, 1, 2**19, 2**20 + 1, 2**20 + 2):
        many[place] = 1.0
        seen.add(int(fingerprint(many)))
        many[place] = 0.0
    assert len(seen) == 6
    assert int(fingerprint(torch.zeros(0))) == 0


def test_the_operators_are_not_named_as_custom_functions() -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, cotangent: Any) -> Any:
            return cotangent

    leaf = torch.ones(2, requires_grad=True)
    (alike,) = shared_node(None, [leaf])
    assert custom_functions(alike.sum()) == []
    found: Tensor = Own.apply(alike)  # type: ignore[no-untyped-call]
    assert custom_functions(found.sum()) == ["Own"]
