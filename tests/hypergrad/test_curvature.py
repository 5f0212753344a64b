"""Gauss-Newton and finite-difference curvature against dense linear algebra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Certificate, Cholesky, attach, pullback
from hypergrad.errors import InputError
from hypergrad.implicit.curvature import Curvature, FiniteDifference, GaussNewton, Hessian
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.cholesky import dense
from hypergrad.objectives import Composed
from tests.hypergrad.problems import Toy

X = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
THETA = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
PHI = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def network(theta: Tensor, phi: Tensor) -> Tensor:
    return torch.tanh((X * theta.exp()) @ phi[..., None])[..., 0]  # (2, 9)


def squares(theta: Tensor, outputs: Tensor) -> Tensor:
    return (outputs - Y).square().sum(-1) / 2


def ridge(theta: Tensor, phi: Tensor) -> Tensor:
    return 0.1 * phi.square().sum(-1)


FIT = Composed(model=network, loss=squares, penalty=ridge)


def matrix(curvature: Curvature) -> Tensor:
    return dense(curvature.linearise(FIT, THETA, PHI).hessian, PHI)


def test_gauss_newton_is_the_jacobian_squared_plus_the_penalty() -> None:
    jacobian = torch.autograd.functional.jacobian(lambda phi: network(THETA, phi), PHI)
    blocks = torch.stack([jacobian[task, :, task] for task in range(2)])
    expected = blocks.mT @ blocks + 0.2 * torch.eye(3, dtype=torch.float64)
    assert torch.allclose(matrix(GaussNewton()), expected, rtol=1e-13, atol=1e-14)


def test_gauss_newton_is_definite_where_the_hessian_is_not() -> None:
    assert torch.linalg.eigvalsh(matrix(Hessian())).min() < 0
    assert torch.linalg.eigvalsh(matrix(GaussNewton())).min() >= 0.2 - 1e-14


def test_gauss_newton_is_the_hessian_of_a_linear_model() -> None:
    linear: Composed[Tensor, Tensor] = Composed(
        model=lambda theta, phi: (X * theta) @ phi, loss=squares, penalty=None
    )
    phi = PHI[0]
    fit = Composed(model=linear.model, loss=lambda theta, out: (out - Y[0]).square().sum())
    ours = dense(GaussNewton().linearise(fit, THETA, phi).hessian, phi)
    exact = dense(Hessian().linearise(fit, THETA, phi).hessian, phi)
    assert torch.allclose(ours, exact, rtol=1e-13, atol=1e-14)


def test_gauss_newton_asks_for_the_structure() -> None:
    with pytest.raises(InputError, match="write it as Composed"):
        GaussNewton().linearise(lambda theta, phi: FIT(theta, phi), THETA, PHI)


def test_gauss_newton_through_attach_cures_negative_curvature() -> None:
    theta = THETA.clone().requires_grad_()
    seen: list[Certificate] = []
    node = attach(FIT, theta, PHI, solver=CG(), curvature=GaussNewton(), watch=seen.append)
    node.sum().backward()
    assert bool(seen[0].adjoint.converged.all())
    assert theta.grad is not None
    assert theta.grad.isfinite().all()


def test_finite_differences_meet_their_stated_error() -> None:
    toy = Toy((3,))
    phi = toy.minimiser()
    exact, _ = pullback(toy.lower, toy.theta, phi, phi, solver=Cholesky())
    ours, _ = pullback(
        toy.lower, toy.theta, phi, phi, solver=CG(rtol=1e-9), curvature=FiniteDifference()
    )
    # u^(2/3) = 4e-11 relative in each product and in the cross product, kappa < 8, and the
    # solver's 1e-9; the toy's third derivatives are of size 1
    assert float((ours - exact).norm() / exact.norm()) <= 8 * (1e-9 + 1e-10) * 2
    assert not torch.equal(ours, exact)


def test_finite_difference_error_falls_with_the_square_of_the_step() -> None:
    toy = Toy((3,))
    phi = toy.minimiser()
    vector = torch.ones_like(phi)
    exact = Linearisation(toy.lower, toy.theta, phi).product(vector)
    errors = []
    for step in (4e-2, 2e-2, 1e-2):
        point = FiniteDifference(step=step).linearise(toy.lower, toy.theta, phi)
        errors.append(float((point.hessian(vector) - exact).norm()))
    # fourth derivatives bend the ratio of 4 by O(step^2)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.01)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.01)


class OnceOnly(torch.autograd.Function):
    """x^2/2 with a backward that can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square() / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x  # type: ignore[no-any-return]


def once_only(theta: Tensor, phi: Tensor) -> Tensor:
    apply: Callable[[Tensor], Tensor] = OnceOnly.apply
    return apply(phi - theta).sum(-1)


def test_an_operation_without_double_backward_is_named_with_the_way_round() -> None:
    theta = THETA.clone().requires_grad_()
    node = attach(once_only, theta, PHI, solver=CG())
    # autograd itself would prune the function's error node and say nothing: zeros
    with pytest.raises(InputError, match=r"OnceOnly.*curvature=FiniteDifference\(\)"):
        node.sum().backward()


def test_the_way_round_works() -> None:
    theta = THETA.clone().requires_grad_()
    start = THETA.expand(2, 3).clone()  # the minimiser is theta
    node = attach(once_only, theta, start, solver=CG(), curvature=FiniteDifference())
    node.sum().backward()
    assert theta.grad is not None
    # dphi/dtheta = I for both tasks; the default CG tolerance
    assert ((theta.grad - 2).abs() <= 2 * 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_default_solver_asks_differences_for_no_more_than_they_have(dtype: torch.dtype) -> None:
    scales = torch.logspace(0, 2, 20, dtype=dtype)  # kappa = 100
    theta = torch.linspace(1, 2, 20, dtype=dtype, requires_grad=True)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (scales * (phi - theta).square()).sum() + (phi - theta).cosh().sum()

    seen: list[Certificate] = []
    phi = attach(
        lower, theta, theta.detach().clone(), curvature=FiniteDifference(), watch=seen.append
    )
    phi.square().sum().backward()
    assert isinstance(seen[0].solver, CG)
    assert seen[0].solved
    assert theta.grad is not None
    # phi* = theta: the step is the relative residual that was asked for, and H and J cancel it
    step = float(torch.finfo(dtype).eps) ** (1 / 3)
    error = (theta.grad - 2 * theta.detach()).norm() / theta.grad.norm()
    assert error < 2 * step
