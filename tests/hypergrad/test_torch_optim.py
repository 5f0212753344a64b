"""The adapter for ``torch.optim`` starts afresh, and moves only the tensors it was given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import GradientDescent, TorchOptimiser
from hypergrad.errors import InputError
from tests.hypergrad.finite_sums import PHI, M, drawn, problem, ridge
from tests.hypergrad.finite_sums import THETA as PENALTIES
from tests.hypergrad.problems import Toy

TOY = Toy((3,))
THETA = torch.tensor([0.3, -0.2], dtype=torch.float64)


def test_torch_optimisers_start_afresh_and_leave_the_start_alone() -> None:
    by = TorchOptimiser(make=lambda leaves: torch.optim.Adam(leaves, lr=0.1), max_steps=5)
    start = {"a": torch.ones(3, 2, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return (phi["a"] - theta).square().sum(-1) + (phi["b"] - 1).square()

    first, second = (by.minimise(lower, THETA, start) for _ in range(2))
    assert torch.equal(first.phi["a"], second.phi["a"])
    assert torch.equal(start["a"], torch.ones(3, 2, dtype=torch.float64))
    assert list(first.phi) == ["a", "b"]
    assert not first.phi["b"].requires_grad
    sgd = TorchOptimiser(make=lambda leaves: torch.optim.SGD(leaves, lr=0.1), max_steps=5)
    plain = GradientDescent(max_steps=5, step_size=0.1).minimise(lower, THETA, start)
    assert torch.allclose(sgd.minimise(lower, THETA, start).phi["a"], plain.phi["a"], rtol=1e-14)


def test_a_torch_optimiser_of_other_tensors_is_refused() -> None:
    other = torch.zeros(2, requires_grad=True)
    by = TorchOptimiser(make=lambda leaves: torch.optim.SGD([other], lr=0.1), max_steps=1)
    with pytest.raises(InputError, match="hand on its argument"):
        by.minimise(TOY.lower, TOY.theta, TOY.start)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("batches", [1, 3])
def test_any_torch_optimiser_sees_batches_as_a_loop_of_ones_own(make: Any, batches: int) -> None:
    lower: Any = problem().lower
    by = TorchOptimiser(make=lambda leaves: make(leaves, lr=0.05), max_steps=6, batches=batches)
    own = PHI.clone().requires_grad_()
    optimiser = make([own], lr=0.05)
    for key in range(2, 8):
        optimiser.zero_grad()
        for turn in range(batches):  # accumulated, as torch's users do
            (lower.batch(key * batches + turn)(PENALTIES, own) / batches).backward()
        optimiser.step()
    found = replace(by, key=2).minimise(lower, PENALTIES, PHI)
    torch.testing.assert_close(found.phi, own.detach(), rtol=1e-12, atol=0)
    # the evidence is on all data, and other batches would have led elsewhere
    (slope,) = torch.autograd.grad(ridge(PENALTIES, own, drawn(0)), own)
    torch.testing.assert_close(found.stationarity, slope.norm(), rtol=1e-12, atol=0)
    assert not torch.allclose(by.minimise(lower, PENALTIES, PHI).phi, own, rtol=1e-6)


def test_batches_of_all_data_are_all_data() -> None:
    whole: Any = problem(M).lower
    by = TorchOptimiser(make=lambda leaves: torch.optim.SGD(leaves, lr=0.1), max_steps=5)
    one = replace(by, batches=1).minimise(whole, PENALTIES, PHI).phi
    torch.testing.assert_close(one, by.minimise(whole, PENALTIES, PHI).phi, rtol=1e-14, atol=0)


def test_batches_of_an_optimiser_are_refused_where_there_are_none() -> None:
    def make(leaves: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(leaves, lr=0.1)

    by = TorchOptimiser(make=make, max_steps=2, batches=2)
    with pytest.raises(InputError, match="batches=2.*a function, which has none.*Minibatched"):
        by.minimise(lambda theta, phi: (phi - theta).square().sum(), PENALTIES, PHI)
    with pytest.raises(InputError, match="batches=2 with rtol=0.1.*give max_steps alone"):
        replace(by, rtol=0.1)
    with pytest.raises(InputError, match="got batches=-1"):
        replace(by, batches=-1)
    with pytest.raises(InputError, match="got key=-1"):
        replace(by, key=-1)
