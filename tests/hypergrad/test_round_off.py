"""Lower solvers that are asked for what the precision gives, and numbers whose squares vanish."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hypergrad import Cholesky, GradientDescent, Implicit, Newton, argmin
from hypergrad.errors import AdjointWarning
from hypergrad.lower.lbfgs import LBFGS
from tests.hypergrad.test_lower_solvers import THETA, WELLS, met, named, wells


@pytest.mark.parametrize("make", [Newton, LBFGS])
def test_steps_that_ran_out_before_round_off_are_said(
    make: Callable[..., Newton | LBFGS],
) -> None:
    start = torch.stack([WELLS.start, WELLS.target])
    short = make(rtol=0.0, max_steps=1).minimise(WELLS.lower, THETA, start)
    assert short.converged is not None
    assert short.converged.tolist() == [False, True]  # nothing was left to do for the second
    assert met(make(rtol=0.0).minimise(WELLS.lower, THETA, start))
    theta = THETA.clone().requires_grad_()
    by = make(rtol=0.0, max_steps=1)

    def moving(theta: Tensor, phi: Tensor) -> Tensor:
        return wells(theta, phi - (theta[0] - THETA[0]))

    phi = argmin(moving, theta, start, by=by, adjoint=Implicit(Cholesky()))
    with pytest.warns(AdjointWarning, match="1 of 2 tasks.*above its own tolerance"):
        phi.sum().backward()


@pytest.mark.parametrize(
    ("dtype", "tiny"), [(torch.float32, 1e-30), (torch.float64, 1e-200)], ids=named
)
@pytest.mark.parametrize("make", [Newton, LBFGS])
def test_a_gradient_whose_square_underflows_is_no_stationary_point(
    make: Callable[..., Newton | LBFGS], dtype: torch.dtype, tiny: float
) -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return tiny * (phi - theta).square().sum(-1) / 2

    theta = torch.tensor([1.0, -2.0], dtype=dtype)
    found = make(rtol=1e-5).minimise(lower, theta, torch.zeros(3, 2, dtype=dtype))
    assert met(found)
    assert (found.phi - theta).abs().max() <= 2e-5 * theta.abs().max()
    start = GradientDescent(max_steps=0, step_size=1.0).minimise(lower, theta, 0 * found.phi)
    assert torch.allclose(start.stationarity, tiny * theta.norm(), rtol=1e-5, atol=0.0)
