"""The adapter for ``torch.optim`` starts afresh, and moves only the tensors it was given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hypergrad import GradientDescent, TorchOptimiser
from hypergrad.errors import InputError
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
