"""A setting that is no number, or not one that makes sense, is named in a typed error."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    LBFGS,
    MINRES,
    GradientDescent,
    Nesterov,
    Neumann,
    Newton,
    TorchOptimiser,
)
from hypergrad.errors import InputError

STEPPING = [
    GradientDescent(max_steps=3, step_size=0.1),
    Nesterov(max_steps=3, step_size=0.1),
    Neumann(max_steps=3, step_size=0.1),
]
OTHERS = [TorchOptimiser(make=torch.optim.SGD, max_steps=3), LBFGS(), Newton(), CG(), MINRES()]


def remade(solver: Any, **settings: object) -> Any:
    """The solver with other settings, past the runtime checker, which users don't have on."""
    new = copy.copy(solver)
    for name, value in settings.items():
        object.__setattr__(new, name, value)
    new.__post_init__()
    return new


def named(value: object) -> str:
    return type(value).__name__


NO_STEP_SIZE = [
    torch.tensor([0.1, 0.2]),
    torch.tensor(0.1),
    {"w": 0.1},
    [0.1],
    "0.1",
    None,
    True,
    0.0,
    -0.1,
    float("inf"),
    float("nan"),
]


@pytest.mark.parametrize("given", NO_STEP_SIZE, ids=repr)
@pytest.mark.parametrize("solver", STEPPING, ids=named)
def test_a_step_size_is_one_positive_finite_number(solver: object, given: object) -> None:
    with pytest.raises(InputError, match=rf"{named(solver)} got step_size=.*step_size > 0"):
        remade(solver, step_size=given)


@pytest.mark.parametrize("solver", STEPPING, ids=named)
def test_numbers_of_other_libraries_are_step_sizes(solver: object) -> None:
    assert remade(solver, step_size=np.float32(0.5)) == remade(solver, step_size=0.5)
    assert remade(solver, step_size=1) == remade(solver, step_size=1.0)


@pytest.mark.parametrize("given", [2.0, "2", True, torch.tensor(2), -1], ids=repr)
@pytest.mark.parametrize("solver", STEPPING + OTHERS, ids=named)
def test_a_number_of_steps_is_whole(solver: object, given: object) -> None:
    with pytest.raises(InputError, match=f"{named(solver)} got max_steps=.*max_steps >= "):
        remade(solver, max_steps=given)


@pytest.mark.parametrize("given", ["1e-6", True, 1.0, -1e-6, float("nan"), torch.tensor([0.1])])
@pytest.mark.parametrize("solver", STEPPING + OTHERS, ids=named)
def test_a_tolerance_is_one_number_below_one(solver: object, given: object) -> None:
    with pytest.raises(InputError, match=r"got rtol=.*rtol must be in \[0, 1\)"):
        remade(solver, rtol=given)


def test_a_fixed_number_of_steps_is_a_tolerance_of_zero() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - theta).square().sum()

    start = torch.zeros(2, dtype=torch.float64)
    plain = GradientDescent(max_steps=4, step_size=0.1)
    zero = GradientDescent(max_steps=4, step_size=0.1, rtol=0.0, atol=0.0)
    ones = torch.ones_like(start)
    assert torch.equal(
        plain.minimise(lower, ones, start).phi, zero.minimise(lower, ones, start).phi
    )
