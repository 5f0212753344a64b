"""``check`` names the condition of a phi that is no minimiser of g alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad.conditions import (
    L1,
    Box,
    Composite,
    Constrained,
    FixedPoint,
    L2Ball,
    NonNegative,
    Simplex,
)
from hypergrad.solvers import NewtonKrylov, ProximalGradient
from tests.hypergrad.test_check import PHI, TOY, check, last_sentence, names, toy

LOWER: Any = TOY.lower
CASES: dict[str, tuple[Any, str]] = {
    "bounds at zero": (Constrained(LOWER, NonNegative()), "Constrained(g, NonNegative())"),
    "a box": (Constrained(LOWER, Box(-0.05, 0.07)), "Constrained(g, Box(low=-0.05, high=0.07))"),
    "one side": (Constrained(LOWER, Box(high=0.01)), "Constrained(g, Box(high=0.01))"),
    "a simplex": (Constrained(LOWER, Simplex(2.0)), "Constrained(g, Simplex(2))"),
    "a ball": (Constrained(LOWER, L2Ball(0.03)), "Constrained(g, L2Ball(0.03))"),
    "a lasso": (Composite(LOWER, L1(0.01)), "Composite(g, L1(0.01))"),
}


def solution(condition: Any) -> Tensor:
    found = ProximalGradient(rtol=1e-8).minimise(condition, TOY.theta, torch.zeros_like(PHI))
    assert found.converged is not None
    assert bool(found.converged.all())
    return found.phi


@pytest.mark.parametrize("name", CASES)
def test_the_condition_that_phi_satisfies_is_named(name: str) -> None:
    condition, stated = CASES[name]
    report = check(toy(), TOY.theta, solution(condition), at_minimiser=True)
    assert names(report) == {"converged phi"}
    assert f"state conditions.{stated} as the lower level" in last_sentence(report)


@pytest.mark.parametrize("name", CASES)
def test_a_point_beside_it_satisfies_none(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    moved = solution(CASES[name][0])
    moved = moved + 0.1 * torch.randn(moved.shape, generator=draw, dtype=moved.dtype)
    message = last_sentence(check(toy(), TOY.theta, moved, at_minimiser=True))
    assert "run more lower steps" in message
    assert "as the lower level" not in message


def test_a_fixed_point_that_no_energy_has_is_sent_to_equations() -> None:
    turn = torch.triu(torch.ones(5, 5, dtype=torch.float64)) / 4  # not symmetric

    def image(theta: Tensor, phi: Tensor) -> Tensor:
        return phi @ turn.mT / 2 + theta.sum()

    def energy(theta: Tensor, phi: Tensor) -> Tensor:  # its gradient has turn's symmetric part
        return phi.square().sum(-1) / 2 - ((phi @ turn.mT) / 4 + theta.sum()).mul(phi).sum(-1)

    point: Any = FixedPoint(image, tasks=1)
    phi = NewtonKrylov().find(point, TOY.theta, torch.zeros_like(PHI)).phi
    report = check(toy(energy), TOY.theta, phi, at_minimiser=True)
    assert "converged phi" in names(report)
    assert "conditions.Root(F) or FixedPoint(T)" in last_sentence(report)


def test_each_leaf_has_its_own_condition() -> None:
    target = torch.tensor([0.4, -0.3, 2.0, -0.2], dtype=torch.float64)

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        free = (phi["free"] - theta.sum()).square().sum(-1)
        return free + (phi["held"] - target * theta.sum()).square().sum(-1)

    def upper(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return phi["free"].square().sum(-1) + phi["held"].square().sum(-1)

    theta = torch.ones(1, dtype=torch.float64)
    phi = {"free": torch.ones(2, dtype=torch.float64), "held": target.clamp(min=0.0)}
    problem: Any = toy(lower, upper)
    message = last_sentence(check(problem, theta, phi, at_minimiser=True))
    assert "conditions.Constrained(g, NonNegative()) for phi['held']" in message
