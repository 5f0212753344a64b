"""Derivatives of the steps that were taken, where a tolerance ends them; and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.forward import Forward
from hypergrad.lower.nesterov import Nesterov
from hypergrad.objectives import SoftmaxRegression

EPS = torch.finfo(torch.float64).eps
THETA = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
CURVED = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
# tasks that need few and many steps to the same absolute tolerance, and none
STARTS = THETA + torch.tensor([[1e-3], [1.0], [30.0], [0.0]], dtype=torch.float64)
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
    GradientDescent(max_steps=100, step_size=0.1, atol=1e-2),
    Nesterov(max_steps=100, step_size=0.1, atol=1e-2),
    Nesterov(max_steps=100, step_size=0.1, condition=8.0, atol=1e-2),
    GradientDescent(max_steps=12, step_size=0.1, atol=1e-2),  # too few for some tasks
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
        for index in range(min(taken + 1, by.max_steps)):
            now = theta if index + steps >= taken else THETA
            phi, memory = by.step(lower, now, phi, memory)
        rows = [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in phi]
        # contractions whose entries are at most 1, rounded at every step
        assert (together[task] - torch.stack(rows)).abs().max() <= 10 * by.max_steps * EPS
        assert together[task].diagonal().min() >= 0.05  # of I; one step gives 0.1 and more


@pytest.mark.parametrize("by", SOLVERS, ids=str)
@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=10**4)], ids=str)
def test_no_task_is_left_without_a_derivative(
    adjoint: Adjoint, by: GradientDescent | Nesterov
) -> None:
    found = jacobian_of(adjoint, by, STARTS)
    assert (found.diagonal(dim1=-2, dim2=-1) >= 0.05).all()
    assert (found - jacobian_of(Unrolled(), by, STARTS)).abs().max() <= 10 * by.max_steps * EPS


@pytest.mark.parametrize("by", SOLVERS, ids=str)
@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=3)], ids=str)
def test_the_value_is_the_lower_solvers(adjoint: Adjoint, by: GradientDescent | Nesterov) -> None:
    theta = THETA.clone().requires_grad_()
    plain = by.minimise(lower, THETA, STARTS).phi
    assert torch.equal(argmin(lower, theta, STARTS, by=by, adjoint=adjoint), plain)


@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=2)], ids=str)
def test_no_task_at_all(adjoint: Adjoint) -> None:
    theta = THETA.clone().requires_grad_()
    by = GradientDescent(max_steps=5, step_size=0.1, rtol=1e-3)
    phi = argmin(lower, theta, STARTS[:0], by=by, adjoint=adjoint)
    phi.sum().backward()
    assert phi.shape == (0, 3)
    assert theta.grad is not None
    assert not theta.grad.any()


@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=9)], ids=str)
def test_one_number_without_dimensions(adjoint: Adjoint) -> None:
    def square(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - theta).square() / 2

    theta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    by = GradientDescent(max_steps=3, step_size=0.5)
    argmin(square, theta, torch.zeros(()).double(), by=by, adjoint=adjoint).backward()
    assert theta.grad is not None
    assert theta.grad == 1 - 0.5**3


def test_tensors_that_have_no_derivative_are_named() -> None:
    by = GradientDescent(max_steps=3, step_size=0.5)
    with torch.inference_mode():
        made = THETA.clone()
    with pytest.raises(InputError, match="theta was made under inference_mode"):
        argmin(lower, made, STARTS, by=by, adjoint=Unrolled())
    with pytest.raises(InputError, match=r"phi0 is torch\.sparse_coo.*to_dense"):
        argmin(lower, THETA, STARTS.to_sparse(), by=by, adjoint=Unrolled())


class OnceOnly(torch.autograd.Function):
    """``x^2/2``, whose second derivative autograd takes for zero and says nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square() / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x  # type: ignore[no-any-return]


class Twice(torch.autograd.Function):
    """``x^2/2`` again, with a backward that is differentiable, once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square() / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        apply: Callable[..., Tensor] = OnceTimes.apply
        return apply(grad, x)


class OnceTimes(torch.autograd.Function):
    """A product that can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(one, other)
        return one * other

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        one, other = ctx.saved_tensors
        return grad * other, grad * one


@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=2)], ids=str)
@pytest.mark.parametrize("by", SOLVERS[:2], ids=str)
def test_an_operation_that_autograd_would_prune_is_refused(
    adjoint: Adjoint, by: GradientDescent | Nesterov
) -> None:
    def pruned(theta: Tensor, phi: Tensor) -> Tensor:
        square: Callable[[Tensor], Tensor] = OnceOnly.apply
        return square(phi - theta).sum(-1)

    theta = THETA.clone().requires_grad_()
    with pytest.raises(InputError, match=r"OnceOnly.*FiniteDifference\(\)"):
        argmin(pruned, theta, STARTS, by=by, adjoint=adjoint)
    with torch.no_grad():  # nothing to prune
        argmin(pruned, theta, STARTS, by=by, adjoint=adjoint)


def test_a_second_derivative_suffices_unless_forward_needs_a_third() -> None:
    def twice(theta: Tensor, phi: Tensor) -> Tensor:
        square: Callable[[Tensor], Tensor] = Twice.apply
        return square(phi - theta).sum(-1)

    by = GradientDescent(max_steps=3, step_size=0.5)
    theta = THETA.clone().requires_grad_()
    argmin(twice, theta, STARTS, by=by, adjoint=Unrolled()).sum().backward()
    assert theta.grad is not None
    # 1 - 0.5^3 of theta in each of four tasks
    assert torch.allclose(theta.grad, torch.full_like(THETA, 4 * 0.875), rtol=1e-14)
    with pytest.raises(InputError, match="OnceTimes"):
        argmin(twice, theta, STARTS, by=by, adjoint=Forward())


@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=2)], ids=str)
@pytest.mark.parametrize("kind", [GradientDescent, Nesterov])
def test_steps_that_diverge_are_named(
    adjoint: Adjoint, kind: Callable[..., GradientDescent | Nesterov]
) -> None:
    rates = torch.tensor([1.0, 1.0, 1e3, 1.0], dtype=torch.float64)

    def steep(theta: Tensor, phi: Tensor) -> Tensor:
        return rates * (phi - theta).square().sum(-1) / 2

    theta = THETA.clone().requires_grad_()
    by = kind(max_steps=400, step_size=0.1)
    with pytest.raises(NotFiniteError, match=f"phi where {kind.__name__} ended of task 2"):
        argmin(steep, theta, STARTS, by=by, adjoint=adjoint)


@pytest.mark.parametrize("adjoint", [Unrolled(), Forward(), Truncated(steps=2)], ids=str)
def test_a_derivative_that_is_not_finite_is_named(adjoint: Adjoint) -> None:
    def cusp(theta: Tensor, phi: Tensor) -> Tensor:
        # d g/d phi is finite where phi is theta, and so is phi; the second derivative is not
        return (phi - theta).abs().pow(1.5).sum(-1)

    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    by = GradientDescent(max_steps=3, step_size=0.01)
    with pytest.raises(NotFiniteError, match="derivative in theta through the lower level"):
        argmin(cusp, theta, 0 * STARTS, by=by, adjoint=adjoint).sum().backward()


@pytest.mark.parametrize("solver", [GradientDescent, Nesterov])
def test_every_task_has_a_last_step_where_two_gradients_round_differently(
    solver: type[GradientDescent] | type[Nesterov],
) -> None:
    # Steps are counted with the closed form's gradient and recorded with autodiff's: near the
    # goal one of them may meet it a step before the other.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 4, 8, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (400, 4), generator=generator)
    by = solver(max_steps=300, step_size=0.3, atol=1e-7)
    heads = argmin(
        SoftmaxRegression(labels=labels, l2=0.5),
        features,
        torch.zeros(400, 3, 8),
        by=by,
        adjoint=Truncated(steps=1),
    )
    (derivative,) = torch.autograd.grad(heads.square().sum(), features)
    assert (derivative.abs().amax((-1, -2)) > 0).all()
