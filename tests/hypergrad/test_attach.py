"""``attach`` as an autograd citizen: values, derivatives, structure, memory, in-place safety."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    Implicit,
    Newton,
    argmin,
    attach,
    hypergradient,
    pullback,
    strict,
)
from tests.hypergrad.problems import Q, Toy

BATCHES = [(), (3,), (2, 3)]
EXACT = Newton(rtol=0.0, solver=Cholesky())


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_gradcheck_through_the_minimiser(batch: tuple[int, ...]) -> None:
    toy = Toy(batch)

    def minimiser(theta: Tensor) -> Tensor:
        return argmin(toy.lower, theta, toy.start, by=EXACT, adjoint=Implicit(Cholesky()))

    # gradcheck's own default tolerances: central differences with eps = 1e-6 in float64
    assert torch.autograd.gradcheck(minimiser, toy.theta.clone().requires_grad_())


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_all_faces_agree(batch: tuple[int, ...]) -> None:
    toy, solver = Toy(batch), Cholesky()
    phi = toy.minimiser()
    functional = hypergradient(
        Bilevel(upper=toy.upper, lower=toy.lower), toy.theta, phi, solver=solver
    )
    theta = toy.theta.clone().requires_grad_()
    loss = toy.upper(theta, attach(toy.lower, theta, phi, solver=solver)).mean()
    loss.backward()
    assert theta.grad is not None
    assert torch.equal(loss, functional.value)
    # the same sums in another order
    assert torch.allclose(theta.grad, functional.grad, rtol=1e-13, atol=0)
    grad, certificate = pullback(toy.lower, toy.theta, phi, 2 * phi, solver=solver)
    tasks = max(1, torch.Size(batch).numel())
    assert torch.allclose(grad / tasks + 2 * toy.theta, functional.grad, rtol=1e-13, atol=0)
    assert certificate.stationarity.shape == batch


def test_values_are_preserved_and_the_node_is_attached() -> None:
    toy = Toy((3,))
    phi = toy.minimiser()
    theta = toy.theta.clone().requires_grad_()
    attached = attach(toy.lower, theta, phi, solver=CG())
    assert torch.equal(attached, phi)
    assert attached.requires_grad
    assert not phi.requires_grad


def test_dict_in_dict_out_with_a_scalar_leaf() -> None:
    # ridge regression with an intercept: a 0-dimensional leaf, and theta in a dict
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2, 0.5], dtype=torch.float64) + 3

    def lower(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        fit = (x @ phi["weight"] + phi["bias"] - y).square().sum()
        return fit + (theta["log_l2"].exp() * phi["weight"].square()).sum() + phi["bias"] ** 2

    start = {"weight": torch.zeros(3).double(), "bias": torch.zeros(()).double()}
    log_l2 = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def held_out(log_l2: Tensor) -> Tensor:
        phi = argmin(lower, {"log_l2": log_l2}, start, by=EXACT, adjoint=Implicit(CG(rtol=1e-12)))
        assert phi.keys() == start.keys()
        assert phi["bias"].shape == ()
        return phi["weight"].square().sum() + phi["bias"]

    assert torch.autograd.gradcheck(held_out, log_l2)


def test_theta_of_each_task_keeps_its_own_gradient() -> None:
    features = torch.randn(3, 4, Q, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = torch.ones(3, 4, dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        fit = ((theta @ phi[..., None])[..., 0] - target[: len(phi)]).square().sum(-1)
        return fit + phi.square().sum(-1)

    def gradient(theta: Tensor) -> Tensor:
        theta = theta.clone().requires_grad_()
        start = torch.zeros(len(theta), Q, dtype=torch.float64)
        phi = argmin(lower, theta, start, by=EXACT, adjoint=Implicit(Cholesky()))
        phi.square().sum().backward()
        assert theta.grad is not None
        return theta.grad

    together = gradient(features)
    for task in range(3):
        alone = gradient(features[task : task + 1])
        assert torch.allclose(together[task : task + 1], alone, rtol=1e-12, atol=1e-14)


def test_only_needed_leaves_are_differentiated() -> None:
    toy = Toy()

    def lower(theta: dict[str, Tensor], phi: Tensor) -> Tensor:
        return toy.lower(theta["free"] + theta["fixed"], phi)

    free = toy.theta.clone().requires_grad_()
    theta = {"free": free, "fixed": torch.zeros_like(toy.theta)}
    attach(lower, theta, toy.minimiser(), solver=CG()).sum().backward()
    assert free.grad is not None
    assert theta["fixed"].grad is None


def test_the_certificate_reaches_watch_when_backward_runs() -> None:
    toy, seen = Toy((3,)), list[Certificate]()
    theta = toy.theta.clone().requires_grad_()
    attached = attach(toy.lower, theta, toy.minimiser(), solver=CG(), watch=seen.append)
    assert not seen
    attached.sum().backward()
    (certificate,) = seen
    assert certificate.adjoint.converged.all()
    assert certificate.adjoint.x.shape == (3, Q)
    strict(certificate)


def test_nothing_happens_where_no_gradient_is_wanted() -> None:
    toy = Toy()
    assert not attach(toy.lower, toy.theta, toy.minimiser(), solver=CG()).requires_grad
    theta = toy.theta.clone().requires_grad_()
    with torch.no_grad():
        assert not attach(toy.lower, theta, toy.minimiser(), solver=CG()).requires_grad


def test_a_phi_changed_in_place_is_noticed() -> None:
    toy = Toy()
    theta = toy.theta.clone().requires_grad_()
    phi = toy.minimiser()
    attached = attach(toy.lower, theta, phi, solver=CG())
    phi += 1.0
    with pytest.raises(RuntimeError, match="modified inplace"):
        attached.sum().backward()


def test_a_module_on_top_and_below_trains_as_usual() -> None:
    # below: theta is a layer's output; above: another layer. Gradients against differences.
    torch.manual_seed(0)
    below, above = nn.Linear(3, Q).double(), nn.Linear(Q, 1).double()
    x = torch.randn(6, 3, dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - theta).square().sum(-1) + torch.log(torch.cosh(phi)).sum(-1)

    def loss() -> Tensor:
        start = torch.zeros(6, Q, dtype=torch.float64)
        phi = argmin(lower, below(x), start, by=EXACT, adjoint=Implicit(CG(rtol=1e-12)))
        total: Tensor = above(phi).square().sum()
        return total

    loss().backward()
    weight, step = below.weight, 1e-6
    assert weight.grad is not None
    with torch.no_grad():
        weight[0, 0] += step
        high = float(loss())
        weight[0, 0] -= 2 * step
        low = float(loss())
    # central differences: u |loss| / step + O(step^2)
    assert abs((high - low) / (2 * step) - float(weight.grad[0, 0])) <= 1e-8 * abs(high)


def test_generic_values_can_be_built_with_their_parameters() -> None:
    # slots and Generic together refuse this at run time
    toy = Toy()
    problem = Bilevel[Tensor, Tensor](upper=toy.upper, lower=toy.lower)
    assert problem == Bilevel(upper=toy.upper, lower=toy.lower)
