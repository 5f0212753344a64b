"""Checks that wait: none is lost, whenever backward runs and however the block is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Detached, GradientDescent, argmin, attach, deferred
from hypergrad.errors import InputError, NotFiniteError

HALF = torch.full((3, 4), 0.5, dtype=torch.float64)


def lower(theta: Tensor, phi: Tensor) -> Tensor:
    return (theta * phi).square().sum(-1) + (phi - 1).square().sum(-1)


def theta() -> Tensor:
    return torch.ones(3, 4, dtype=torch.float64, requires_grad=True)


def attached(scale: Tensor | None = None) -> Tensor:
    factor = torch.ones((), dtype=torch.float64) if scale is None else scale
    return attach(lambda t, p: factor * lower(t, p), theta(), HALF, solver=CG())


def test_backward_after_the_block_looks_at_once() -> None:
    with deferred():
        phi = attached()
    with pytest.raises(NotFiniteError, match="the right-hand side"):
        (phi - 0.5).sqrt().sum().backward()  # an infinite cotangent


def test_backward_in_a_later_block_notes_there() -> None:
    with deferred():
        phi = attached()
    with pytest.raises(NotFiniteError, match="the right-hand side"), deferred():
        (phi - 0.5).sqrt().sum().backward()


def test_an_objective_that_changed_is_still_refused_after_the_block() -> None:
    scale = torch.ones((), dtype=torch.float64)
    with deferred():
        phi = attached(scale)
    scale.mul_(3)
    with pytest.raises(InputError, match="when phi was attached"):
        phi.sum().backward()


def test_what_failed_before_an_exception_is_raised_with_it() -> None:
    def stopped(*, step_size: float) -> None:
        by = GradientDescent(max_steps=200, step_size=step_size)
        with deferred():
            argmin(lower, theta(), 2 * HALF, by=by, adjoint=Detached())
            raise KeyError("stop")

    with pytest.raises(NotFiniteError) as failed:
        stopped(step_size=1e9)
    assert isinstance(failed.value.__context__, KeyError)
    with pytest.raises(KeyError):
        stopped(step_size=0.1)
