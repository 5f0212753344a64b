"""The scale of a relative tolerance, which a good start does not shrink; and each leaf's dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hypergrad import LBFGS, GradientDescent, Nesterov, Newton
from tests.hypergrad.test_lower_solvers import ILL, RTOL, SOLVERS, STRONG, THETA, Problem, met


@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"torch Adam", "torch LBFGS"}))
@pytest.mark.parametrize("problem", [STRONG, ILL], ids=["strong", "ill"])
def test_no_start_goes_further_than_the_one_from_zero(name: str, problem: Problem) -> None:
    # the goal of a start, |r| + |H phi|, is at least the gradient at zero: a start that meets that
    # one's goal, however good it is, has nothing left to do
    zero = torch.zeros_like(problem.target)
    by = SOLVERS[name](problem)
    there = by.minimise(problem.lower, THETA, zero)
    assert met(there)
    again = by.minimise(problem.lower, THETA, there.phi)
    assert met(again)
    # steps that can be recorded take the first in any case, and Nesterov's looks ahead of phi
    assert again.steps <= 2


def test_the_scale_of_a_start_has_the_units_of_the_gradient() -> None:
    by = GradientDescent(max_steps=2000, step_size=1 / ILL.smooth, rtol=1e-3)

    def in_units(phi_unit: float, value_unit: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda theta, phi: value_unit * ILL.lower(theta, phi / phi_unit)

    plain = by.minimise(ILL.lower, THETA, ILL.start)
    for unit in (2.0**-20, 2.0**20):
        # of powers of two every rounding is the same
        other = by.minimise(in_units(unit, unit**2), THETA, unit * ILL.start)
        assert other.steps == plain.steps
        assert torch.equal(other.phi, unit * plain.phi)


def test_a_half_outside_of_the_domain_leaves_the_scale_of_the_start() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - (phi - 0.9).log()).sum(-1)  # of phi > 0.9 only, minimal at 1.9

    found = Newton(rtol=1e-6).minimise(lower, THETA, torch.full((1,), 1.5, dtype=torch.float64))
    assert met(found)
    assert float(found.phi) == pytest.approx(1.9, abs=1e-5)


@pytest.mark.parametrize(
    "kinds", [(torch.float16,), (torch.bfloat16,), (torch.float32, torch.float64)]
)
@pytest.mark.parametrize("condition", [None, 4.0])
@pytest.mark.parametrize("atol", [0.0, 1e-2])
def test_nesterov_keeps_the_dtype_of_each_leaf(
    kinds: tuple[torch.dtype, ...], condition: float | None, atol: float
) -> None:
    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        total = (phi["0"] - 1).square().sum(-1)
        # a product of one dtype, which another would not enter
        total = total + 0 * (phi["0"] @ torch.ones(3, dtype=kinds[0]))
        return total if len(kinds) == 1 else total + (phi["1"] - 1).square().sum(-1)

    start = {str(i): torch.zeros(2, 3, dtype=kind) for i, kind in enumerate(kinds)}
    by = Nesterov(max_steps=20, step_size=0.3, condition=condition, atol=atol)
    found = by.minimise(lower, torch.ones(1, dtype=kinds[-1]), start).phi
    assert [leaf.dtype for leaf in found.values()] == list(kinds)
    assert all((leaf - 1).abs().max() <= 0.05 for leaf in found.values())


def test_lbfgs_keeps_pairs_and_scales_for_each_task() -> None:
    # the same problem at scales a million apart: shared pairs or lengths would serve one only
    scale = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return scale[: len(phi)] * STRONG.lower(theta, phi)

    start = STRONG.start.expand(3, -1)
    found = LBFGS(rtol=RTOL, max_steps=40).minimise(lower, THETA, start)
    assert met(found)
