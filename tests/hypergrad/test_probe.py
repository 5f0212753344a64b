"""Wrong second derivatives are noticed, right ones are not; and what that costs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hypergrad import CG, Certificate, Cholesky, attach, curvature, deferred, strict
from hypergrad.errors import AdjointError, AdjointWarning, InputError
from hypergrad.implicit import probe
from tests.hypergrad.problems import Toy

ONCE = curvature.Hessian()
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def _nothing_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_PASSED", set())


class Cube(torch.autograd.Function):
    """``x^3``, which keeps an intermediate: autograd sees no derivative of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = 3 * x.square()
        cube: Tensor = x**3
        return cube

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        slope: Tensor = ctx.slope
        return cotangent * slope


class Times(torch.autograd.Function):
    """``x y``, whose backward takes half of y for a constant: J is wrong, and H is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return cotangent * (y + y.detach()) / 2, cotangent * x


def cubic(cube: Callable[[Tensor], Tensor], theta: Tensor, phi: Tensor) -> Tensor:
    return phi.square().sum(-1) + cube(phi).sum(-1) - (phi * theta).sum(-1)


def certificate_of(
    lower: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    phi: Tensor,
    *,
    by: curvature.Curvature = ONCE,
) -> Certificate:
    seen: list[Certificate] = []
    moved = attach(lower, theta.clone().requires_grad_(), phi, curvature=by, watch=seen.append)
    moved.sum().backward()
    return seen[0]


def cubics_minimiser(theta: Tensor) -> Tensor:
    return (-1 + (1 + 3 * theta).sqrt()) / 3  # 2 phi + 3 phi^2 = theta


@BOTH
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_a_function_that_keeps_intermediates_is_noticed(dtype: torch.dtype, unit: float) -> None:
    theta = torch.tensor([[3.0, 2.0], [5.0, 1.0]], dtype=dtype)
    phi = cubics_minimiser(theta)
    wrong = certificate_of(lambda t, p: unit * cubic(Cube.apply, t, p / unit), theta, phi * unit)
    assert not wrong.solved.any()
    assert wrong.at_minimiser.all()  # nothing else tells
    assert wrong.adjoint.converged.all()
    assert "second derivatives of the lower objective are wrong in 2 of 2 tasks" in str(wrong)
    right = certificate_of(
        lambda t, p: unit * cubic(lambda x: x**3, t, p / unit), theta, phi * unit
    )
    assert right.solved.all()


@BOTH
def test_a_wrong_cross_derivative_is_noticed(dtype: torch.dtype) -> None:
    theta = torch.tensor([3.0, 2.0], dtype=dtype)

    def lower(times: Callable[..., Tensor], theta: Tensor, phi: Tensor) -> Tensor:
        return phi.square().sum() - times(phi, theta).sum()

    wrong = certificate_of(lambda t, p: lower(Times.apply, t, p), theta, theta / 2)
    right = certificate_of(lambda t, p: lower(torch.mul, t, p), theta, theta / 2)
    assert not wrong.solved
    assert right.solved


class Sparse(nn.Module):
    """A layer whose weight has a sparse layout while it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12))

    def forward(self, inputs: Tensor) -> Tensor:
        places = torch.cartesian_prod(torch.arange(3), torch.arange(4)).mT
        weight = torch.sparse_coo_tensor(places, self.weight, (3, 4), check_invariants=False)
        product: Tensor = torch.sparse.mm(weight, inputs.mT)
        return product.mT


LAYERS = {
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(
        nn.Linear(4, 3), n_power_iterations=50
    ),
    "sparse tensors": Sparse,
}


@BOTH
@pytest.mark.parametrize("name", LAYERS)
def test_torchs_wrong_second_derivatives_are_noticed(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(LAYERS[name](), nn.Tanh(), nn.Linear(3, 2)).to(dtype)
    inputs = torch.randn(40, 4, dtype=dtype)
    phi = {name: leaf.detach().clone() for name, leaf in net.named_parameters()}
    labels = net(inputs).detach()

    def loss(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(net, phi, (inputs,))
        misfit: Tensor = outputs - theta * labels - 1
        return misfit.square().mean()

    one = torch.tensor(1.0, dtype=dtype)
    slope = torch.func.grad(loss, argnums=1)(one, phi)

    def lower(theta: Tensor, given: dict[str, Tensor]) -> Tensor:
        # a linear term makes phi stationary, a quadratic one a minimiser
        near = [
            (given[name] - leaf).square().sum() - (slope[name] * given[name]).sum()
            for name, leaf in phi.items()
        ]
        return loss(theta, given) + torch.stack(near).sum()

    seen: list[Certificate] = []
    for by in (curvature.Hessian(), curvature.FiniteDifference()):
        moved = attach(
            lower, one.clone().requires_grad_(), phi, curvature=by, solver=CG(rtol=1e-3),
            watch=seen.append,
        )  # fmt: skip
        weighted = [leaf.flatten() @ torch.arange(leaf.numel()).to(leaf) for leaf in moved.values()]
        torch.stack(weighted).sum().backward()
    assert not seen[0].second_derivatives_right.any()
    assert name in str(seen[0])
    assert seen[1].solved


@pytest.mark.parametrize("network", [nn.ReLU, nn.Tanh])
@BOTH
def test_kinks_are_no_wrong_second_derivatives(
    dtype: torch.dtype, network: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), network(), nn.Linear(32, 5)).to(dtype)
    inputs, labels = torch.randn(25, 8, dtype=dtype), torch.randint(0, 5, (25,))
    names = [name for name, _ in net.named_parameters()]

    def lower(theta: Tensor, phi: list[Tensor]) -> Tensor:
        outputs = torch.func.functional_call(net, dict(zip(names, phi, strict=True)), (inputs,))
        decay = torch.stack([leaf.square().sum() for leaf in phi]).sum()
        return nn.functional.cross_entropy(outputs, labels) + theta * decay

    phi = [leaf.detach() for leaf in net.parameters()]
    seen: list[Certificate] = []
    theta = torch.tensor(1.0, dtype=dtype, requires_grad=True)
    moved = attach(lower, theta, phi, watch=seen.append)
    torch.stack([leaf.sum() for leaf in moved]).sum().backward()
    assert seen[0].second_derivatives_right


@BOTH
def test_few_weights_among_many_are_not_moved_far(dtype: torch.dtype) -> None:
    # A step relative to |phi| = 100 would move the two that v has by 0.5 in float32: ten radians of
    # this cosine, and no difference quotient of it. Their own size is 1.
    cube: Callable[[Tensor], Tensor] = Cube.apply

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return phi.square().sum() / 2 - (theta * (20 * phi[:2]).cos()).sum()

    def wrong(theta: Tensor, phi: Tensor) -> Tensor:
        return lower(theta, phi) + 30 * cube(phi[:2]).sum()

    theta = torch.ones(2, dtype=dtype, requires_grad=True)
    for objective, noticed in ((lower, False), (wrong, True)):
        seen: list[Certificate] = []
        phi = attach(objective, theta, torch.ones(10_000, dtype=dtype), watch=seen.append)
        phi[:2].sum().backward()
        (certificate,) = seen
        assert certificate.second_derivative_error is not None
        assert bool(certificate.second_derivative_error > probe.WRONG) is noticed


def test_a_kind_of_objective_is_probed_once_and_a_wrong_one_always() -> None:
    toy, calls = Toy((3,)), []

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        calls.append(1)
        return toy.lower(theta, phi)

    def probed(by: curvature.Curvature) -> tuple[bool, int]:
        calls.clear()
        found = certificate_of(lower, toy.theta, toy.minimiser(), by=by)
        return found.second_derivative_error is not None, len(calls)

    never = probed(curvature.Hessian(probe="never"))
    assert never[0] is False
    assert probed(curvature.Hessian()) == (True, never[1] + 4)
    assert probed(curvature.Hessian()) == never
    assert probed(curvature.Hessian(probe="always")) == (True, never[1] + 4)

    theta = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    phi = cubics_minimiser(theta.detach())
    for _ in range(2):
        moved = attach(lambda t, p: cubic(Cube.apply, t, p), theta, phi, watch=strict)
        with pytest.raises(AdjointError, match="second derivatives"):
            moved.sum().backward()


def test_it_costs_no_product() -> None:
    toy = Toy((3,))
    products = [
        certificate_of(toy.lower, toy.theta, toy.minimiser(), by=curvature.Hessian(probe=when))
        for when in ("always", "never")
    ]
    assert products[0].adjoint.matvecs == products[1].adjoint.matvecs


def test_nothing_is_told_at_zero() -> None:
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    zero = torch.zeros_like(theta)
    found = certificate_of(lambda t, p: (p - t + t.detach()).square().sum(), theta, zero)
    assert found.solved
    assert found.second_derivative_error == 0
    again = certificate_of(lambda t, p: (p - t + t.detach()).square().sum(), theta, zero)
    assert again.second_derivative_error is not None  # it has not passed


def test_under_deferred_the_first_certificate_says_it() -> None:
    theta = torch.tensor([3.0, 2.0], dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return cubic(Cube.apply, theta, phi)

    with deferred():
        found = [certificate_of(lower, theta, cubics_minimiser(theta)) for _ in range(2)]
    assert not found[0].solved
    assert found[1].second_derivative_error is None


def test_the_warning_says_what_is_wrong() -> None:
    theta = torch.tensor([3.0, 2.0], requires_grad=True)
    moved = attach(lambda t, p: cubic(Cube.apply, t, p), theta, cubics_minimiser(theta.detach()))
    with pytest.warns(AdjointWarning, match="keeps intermediates"):
        moved.sum().backward()


def test_finite_differences_are_the_way_round() -> None:
    theta = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    phi = cubics_minimiser(theta.detach())
    by = curvature.FiniteDifference()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(
            lambda t, p: cubic(Cube.apply, t, p), theta, phi, curvature=by, solver=Cholesky()
        ).sum().backward()
    assert theta.grad is not None
    # d phi / d theta = 1 / (2 + 6 phi); differences are good to the 2/3rd power of the precision
    assert torch.allclose(theta.grad, 1 / (2 + 6 * phi), rtol=1e-9)


def test_an_unknown_time_to_probe_is_refused() -> None:
    other = copy.copy(ONCE)
    object.__setattr__(other, "probe", "often")  # past the runtime checker, which users don't have
    with pytest.raises(InputError, match="probe='often'; it is one of once, always, never"):
        other.__post_init__()
