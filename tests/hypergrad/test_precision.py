"""Autocast outside, full precision inside; mixed dtypes; objectives that change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hypergrad import (
    CG,
    Certificate,
    GradientDescent,
    Implicit,
    LinearSolver,
    TorchOptimiser,
    argmin,
    attach,
)
from hypergrad.conditions import Root
from hypergrad.errors import InputError
from hypergrad.linear.cholesky import Cholesky
from hypergrad.objectives import SoftmaxRegression
from hypergrad.solvers import GMRES, LU
from hypergrad.stochastic import Minibatched
from tests.hypergrad.problems import Toy

LABELS = torch.arange(6).expand(3, 6) % 3


def head(features: Tensor, seen: list[Certificate]) -> Tensor:
    return argmin(
        SoftmaxRegression(LABELS, l2=0.1),
        features,
        torch.zeros(3, 3, 4),
        by=GradientDescent(max_steps=200, step_size=0.3),
        adjoint=Implicit(CG(rtol=1e-5)),
        watch=seen.append,
    )


def test_under_autocast_the_lower_level_is_solved_in_float32() -> None:
    torch.manual_seed(0)
    backbone, x = nn.Linear(5, 4), torch.randn(3, 6, 5)
    seen: list[Certificate] = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(x)
        assert features.dtype == torch.bfloat16
        phi = head(features, seen)
        assert phi.dtype == torch.float32
        loss = phi.square().sum()
    loss.backward()
    # 1e-5 can't be reached with bfloat16 products (precision 4e-3)
    assert seen[0].adjoint.converged.all()
    assert seen[0].adjoint.x.dtype == torch.float32
    assert backbone.weight.grad is not None
    # the same features in float32 give the same hypergradient of phi in them, up to the rounding
    # of what autocast hands back: 8 bits, twice
    grown = features.detach().float().requires_grad_()
    head(grown, seen).square().sum().backward()
    assert grown.grad is not None
    expected = torch.einsum("tno,tni->oi", grown.grad, x)
    scale = expected.abs().max()
    assert ((backbone.weight.grad - expected).abs() <= 4 * 2**-8 * scale).all()


def test_a_minibatched_loss_under_autocast_differs_by_its_rounding() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=draw), torch.arange(12) % 3

    def slope(*, autocast: bool) -> Tensor:
        def loss(theta: Tensor, phi: Tensor, examples: Any) -> Tensor:
            features, labels = examples
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                scores = features @ phi
            return nn.functional.cross_entropy(scores, labels) + theta.exp() * phi.square().sum()

        theta = torch.zeros((), requires_grad=True)
        lower: Any = Minibatched(loss=loss, data=(x, y), size=5)
        by = TorchOptimiser(make=lambda p: torch.optim.SGD(p, lr=0.2), max_steps=60)
        seen: list[Certificate] = []
        phi = argmin(
            lower, theta, torch.zeros(4, 3), by=by, adjoint=Implicit(CG(rtol=1e-3)),
            watch=seen.append,
        )  # fmt: skip
        phi.square().sum().backward()
        assert phi.dtype == seen[0].adjoint.x.dtype == torch.float32
        assert theta.grad is not None
        return theta.grad

    wide, narrow = slope(autocast=False), slope(autocast=True)
    largest = 2 + float(torch.linalg.matrix_norm(x, ord=2)) ** 2 / 2 / len(
        x
    )  # of H; the least is 2
    # features, phi, scores and their derivatives are rounded to 8 bits, in phi and in v
    assert 0 < float((narrow - wide).abs() / wide.abs()) <= 2 * 4 * 2**-8 * largest / 2


def test_backward_inside_autocast_is_solved_in_float32_too() -> None:
    features = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen: list[Certificate] = []
    phi = head(features, seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        phi.square().sum().backward()
    assert seen[0].adjoint.converged.all()


def test_dtypes_may_be_mixed_within_a_tree() -> None:
    toy = Toy()

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return toy.lower(theta, torch.cat([phi["low"].double(), phi["high"]]))

    theta = toy.theta.clone().requires_grad_()
    found = toy.minimiser()
    phi = {"low": found[:2].float(), "high": found[2:]}
    mixed = attach(lower, theta, phi, solver=Cholesky())
    assert mixed["low"].dtype == torch.float32
    (mixed["low"].double().sum() + mixed["high"].sum()).backward()
    wide = toy.theta.clone().requires_grad_()
    attach(toy.lower, wide, found, solver=Cholesky()).sum().backward()
    assert theta.grad is not None
    assert wide.grad is not None
    # two of five entries were rounded to float32: a relative 6e-8 each, kappa < 8
    assert ((theta.grad - wide.grad).abs() <= 10 * 8 * 6e-8 * wide.grad.abs().max()).all()


def test_a_half_precision_phi_is_solved_in_float32() -> None:
    target = torch.tensor([1.0, 2.0], dtype=torch.float16, requires_grad=True)
    phi = target.detach().clone()
    seen: list[Certificate] = []
    node = attach(
        lambda theta, phi: (phi - theta).float().square().sum(),
        target,
        phi,
        solver=CG(),
        watch=seen.append,
    )
    node.sum().backward()
    assert seen[0].adjoint.x.dtype == torch.float32
    assert target.grad is not None
    assert target.grad.tolist() == [1.0, 1.0]


def test_dropout_in_the_objective_is_noticed() -> None:
    toy = Toy((3,))
    torch.manual_seed(0)
    theta = toy.theta.clone().requires_grad_()
    node = attach(
        lambda theta, phi: toy.lower(theta, torch.dropout(phi, 0.5, train=True)),
        theta,
        toy.minimiser(),
        solver=CG(),
    )
    with pytest.raises(InputError, match=r"at the same point in backward.*dropout.*eval\(\)"):
        node.sum().backward()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_change_of_the_objective_is_noticed_in_any_unit_of_phi(unit: float) -> None:
    theta = torch.tensor([1.0, -2.0], requires_grad=True)
    factor = torch.ones(())
    node = attach(
        lambda theta, phi: factor * ((phi / unit - theta).square().sum() + 1.0),
        theta,
        theta.detach() * unit * 1.001,
        solver=CG(),
    )
    factor.mul_(1.01)
    with pytest.raises(InputError, match="at the same point in backward"):
        node.sum().backward()


def test_a_loop_variable_that_moved_on_is_noticed() -> None:
    toy = Toy((3,))
    theta = toy.theta.clone().requires_grad_()
    nodes = []
    for weight in (1.0, 2.0):

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            return weight * toy.lower(theta, phi)  # noqa: B023  (the mistake under test)

        nodes.append(attach(lower, theta, toy.minimiser(), solver=CG()))
    with pytest.raises(InputError, match="a loop variable"):
        nodes[0].sum().backward()


def test_a_minimiser_rounded_to_bfloat16_is_told_what_would_help() -> None:
    theta = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    aim = 1 + 2**-8  # halfway from 1 to the next number

    def lower(t: Tensor, p: Tensor) -> Tensor:
        return (t.float() * (p.float() - aim).square()).sum() / 2

    for at, advice in ((1.0, "bfloat16 rounds phi by 8e-03 of itself"), (2.0, "Check that phi is")):
        seen: list[Certificate] = []
        phi = torch.full((2,), at, dtype=torch.bfloat16)
        attach(lower, theta, phi, watch=seen.append).sum().backward()
        assert advice in str(seen[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", [None, LU(rtol=1e-4), GMRES(rtol=1e-4)])
def test_in_16_bits_a_root_says_what_its_products_allow(
    dtype: torch.dtype, solver: LinearSolver | None
) -> None:
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 8, generator=draw) / 6 + torch.eye(8)
    theta = torch.randn(8, generator=draw)

    def gradient(kind: torch.dtype) -> tuple[Tensor, Certificate]:
        seen: list[Certificate] = []
        narrow, a = theta.to(kind).requires_grad_(), matrix.to(kind)
        root: Any = Root(lambda t, p: a @ p - t)
        phi = torch.linalg.solve(matrix, theta).to(kind)
        (found,) = torch.autograd.grad(
            attach(root, narrow, phi, solver=solver, watch=seen.append).sum(), narrow
        )
        return found.double(), seen[0]

    found, certificate = gradient(dtype)
    exact, _ = gradient(torch.float64)
    eps = torch.finfo(dtype).eps
    # kappa < 4 here, and a product rounds its vector and its result, by eps/2 each
    assert float((found - exact).norm() / exact.norm()) < 8 * eps
    assert not bool(certificate.adjoint.converged.any())
    assert float(certificate.adjoint.residual) < 8 * eps
    kind = str(dtype).removeprefix("torch.")
    assert f"products in {kind} round by {eps:.0e} of their terms" in str(certificate)
