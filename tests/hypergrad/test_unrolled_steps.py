"""Derivatives of the steps that were taken, where a tolerance ends them; and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hypergrad import (
    Adjoint,
    GradientDescent,
    Truncated,
    Unrolled,
    argmin,
)
from hypergrad.adjoints_forward import Forward
from hypergrad.lower.nesterov import Nesterov

EPS = torch.finfo(torch.float64).eps
THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
CURVED = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
# tasks that need few and many steps to the same absolute tolerance, and none
STARTS = THETA + torch.tensor([[1e-3], [1.0], [300.0], [0.0]], dtype=torch.float64)
WEIGHTS = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3)


def lower(theta: Tensor, phi: Tensor) -> Tensor:
    """Its minimiser is theta; one curvature for each entry, and a quartic in the way."""
    off = phi - theta
    return (CURVED * off.square()).sum(-1) / 2 + (1e-6 * off**4).sum(-1)


def jacobian_of(adjoint: Adjoint, by: GradientDescent | Nesterov, start: Tensor) -> Tensor:
    """Each task's own dphi/dtheta, ``(tasks, n, p)``."""
    theta = THETA.clone().requires_grad_()
    phi = argmin(lower, theta, start, by=by, adjoint=adjoint)
    rows = [torch.autograd.grad(entry, theta, retain_graph=True)[0] for entry in phi.reshape(-1)]
    return torch.stack(rows).reshape(*phi.shape, -1)


SOLVERS: list[GradientDescent | Nesterov] = [
    GradientDescent(steps=400, step_size=0.1, atol=1e-2),
    Nesterov(steps=400, step_size=0.1, atol=1e-2),
    Nesterov(steps=400, step_size=0.1, condition=8.0, atol=1e-2),
    GradientDescent(steps=12, step_size=0.1, atol=1e-2),  # too few for some tasks
]


@pytest.mark.parametrize("by", SOLVERS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 10**4])
def test_each_tasks_own_last_steps_are_recorded(by: GradientDescent | Nesterov, steps: int) -> None:
    together = jacobian_of(Truncated(steps=steps), by, STARTS)
    counts = by.taken(lower, THETA, STARTS)
    assert len(set(counts.tolist())) > 1
    assert counts.min() >= 1
    for task, taken in enumerate(counts.tolist()):
        # the same steps, counted before: one more only finds that the tolerance is met
        memory: tuple[Tensor, ...] = ()
        phi, theta = STARTS[task], THETA.clone().requires_grad_()
        for index in range(min(taken + 1, by.steps)):
            now = theta if index + steps >= taken else THETA
            phi, memory = by.step(lower, now, phi, memory)
        rows = [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in phi]
        # contractions whose entries are at most 1, rounded at every step
        assert (together[task] - torch.stack(rows)).abs().max() <= 10 * by.steps * EPS
        assert together[task].diagonal().min() >= 0.05  # of I; one step gives 0.1 and more


@pytest.mark.parametrize("by", SOLVERS, ids=str)
@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=10**4)], ids=str)
def test_no_task_is_left_without_a_derivative(
    adjoint: Adjoint, by: GradientDescent | Nesterov
) -> None:
    found = jacobian_of(adjoint, by, STARTS)
    assert (found.diagonal(dim1=-2, dim2=-1) >= 0.05).all()
    assert (found - jacobian_of(Unrolled(), by, STARTS)).abs().max() <= 10 * by.steps * EPS


@pytest.mark.parametrize("by", SOLVERS, ids=str)
@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=3)], ids=str)
def test_the_value_is_the_lower_solvers(adjoint: Adjoint, by: GradientDescent | Nesterov) -> None:
    theta = THETA.clone().requires_grad_()
    plain = by.minimise(lower, THETA, STARTS).phi
    assert torch.equal(argmin(lower, theta, STARTS, by=by, adjoint=adjoint), plain)


def test_no_task_has_no_last_steps() -> None:
    theta = THETA.clone().requires_grad_()
    by = GradientDescent(steps=5, step_size=0.1, rtol=1e-3)
    phi = argmin(lower, theta, STARTS[:0], by=by, adjoint=Truncated(steps=2))
    assert phi.shape == (0, 3)
