"""Whole networks as lower levels, batched over tasks; and what a module must not do inside one."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hypergrad import CG, GradientDescent, Implicit, Newton, Unrolled, argmin
from hypergrad.errors import InputError
from hypergrad.linear.cholesky import Cholesky
from hypergrad.objectives import Proximal
from hypergrad.objectives.modules import call, parameters

TASKS, EXAMPLES, INPUTS = 3, 8, 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, 1)).double()


X = torch.randn(
    TASKS, EXAMPLES, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
)
Y = torch.sin(X.sum(-1, keepdim=True))


def test_a_batched_call_is_the_call_of_each_task() -> None:
    module = network()
    phi = parameters(module, tasks=(TASKS,))
    phi = {k: v + 0.1 * torch.randn_like(v) for k, v in phi.items()}
    together = call(module, phi, X)
    for task in range(TASKS):
        alone = call(module, {k: v[task] for k, v in phi.items()}, X[task])
        assert torch.allclose(together[task], alone, rtol=1e-14, atol=1e-15)


def test_implicit_maml_of_a_whole_network_agrees_with_a_long_unrolling() -> None:
    module = network()
    theta = parameters(module)

    def loss(phi: dict[str, Tensor]) -> Tensor:
        return (call(module, phi, X) - Y).square().mean(dim=(-2, -1))

    # curvature of the loss alone is bounded below by about -1 here: strength 2 makes g convex
    lower, start = Proximal(loss, strength=2.0), parameters(module, tasks=(TASKS,))

    def gradient(by: GradientDescent | Newton, adjoint: Implicit | Unrolled) -> list[Tensor]:
        phi = argmin(lower, theta, start, by=by, adjoint=adjoint)
        return list(torch.autograd.grad(loss(phi).mean(), list(theta.values())))

    exact = gradient(Newton(rtol=0.0, solver=CG(rtol=1e-4)), Implicit(CG(rtol=1e-12)))
    # L < 10, mu > 1: 300 steps of 0.1 leave (1 - 0.1)^300 < 1e-13
    unrolled = gradient(GradientDescent(max_steps=300, step_size=0.1), Unrolled())
    dense = gradient(Newton(rtol=0.0), Implicit(Cholesky()))
    for one, two, three in zip(exact, unrolled, dense, strict=True):
        scale = one.abs().max()
        assert ((one - two).abs() <= 1e-9 * scale).all()
        assert ((one - three).abs() <= 1e-9 * scale).all()


def test_live_parameters_are_theta_and_copies_are_phi() -> None:
    module = network()
    assert all(v.requires_grad for v in parameters(module).values())
    copies = parameters(module, tasks=())
    assert not any(v.requires_grad for v in copies.values())
    copies["0.bias"] += 1
    assert not torch.equal(copies["0.bias"], parameters(module)["0.bias"])


def test_batch_norm_in_training_mode_is_refused_before_it_corrupts() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    with pytest.raises(InputError, match=r"BatchNorm1d in training mode.*track_running_stats"):
        call(module, parameters(module), X[0])
    assert torch.equal(norm.running_mean, before)
    module.eval()
    assert call(module, parameters(module), X[0]).shape == (EXAMPLES, 3)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.weight * x


def test_any_buffer_that_changes_is_refused_and_left_alone() -> None:
    module = Counter()
    with pytest.raises(InputError, match="changes its buffer 'calls'"):
        call(module, parameters(module), torch.ones(2))
    assert module.calls == 0


def test_dropout_in_a_batched_call_is_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)).double()
    with pytest.raises(InputError, match=r"random numbers.*eval\(\)"):
        call(module, parameters(module, tasks=(TASKS,)), X)


def test_names_and_shapes_are_checked() -> None:
    module = network()
    phi = parameters(module, tasks=(TASKS,))
    with pytest.raises(InputError, match=r"hypergrad\.parameters"):
        call(module, {"weight": phi["0.weight"]}, X)
    with pytest.raises(InputError, match="same tasks' dimensions"):
        call(module, {**phi, "2.bias": phi["2.bias"][:1]}, X)
    with pytest.raises(InputError, match="Tanh has no parameters"):
        parameters(nn.Tanh())


def test_dropout_without_tasks_is_refused_and_with_one_task_after_the_other() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout())
    with pytest.raises(InputError, match="draws random numbers"):
        call(net, parameters(net, tasks=()), torch.randn(5, 4))
    deep = Recurrent(dropout=0.5)
    with pytest.raises(InputError, match="draws random numbers"):
        call(deep, parameters(deep, tasks=(2,)), torch.randn(2, 5, 4, 2))
    net.eval()
    call(net, parameters(net, tasks=()), torch.randn(5, 4))


class Recurrent(nn.Module):
    """An LSTM's outputs, which ``torch.vmap`` can't batch."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.LSTM(2, 3, num_layers=2, batch_first=True, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)[0]
        return output


@pytest.mark.parametrize("tasks", [(2,), (2, 3)], ids=str)
def test_a_recurrent_module_is_called_for_each_task(tasks: tuple[int, ...]) -> None:
    net = Recurrent()
    generator = torch.Generator().manual_seed(0)
    phi = {
        name: leaf + torch.randn(leaf.shape, generator=generator)
        for name, leaf in parameters(net, tasks=tasks).items()
    }
    x = torch.randn(*tasks, 5, 4, 2, generator=generator)
    found = call(net, phi, x)
    assert found.shape == (*tasks, 5, 4, 3)
    for index in itertools.product(*map(range, tasks)):
        mine = {name: leaf[index] for name, leaf in phi.items()}
        assert torch.equal(found[index], call(net, mine, x[index]))


def test_frozen_parameters_stay_and_may_be_left_out() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    net[0].requires_grad_(False)
    assert list(parameters(net)) == list(parameters(net, tasks=(2,))) == ["2.weight", "2.bias"]
    x = torch.randn(2, 5, 2)
    phi = {name: 2 * leaf for name, leaf in parameters(net, tasks=(2,)).items()}
    doubled = copy.deepcopy(net)
    with torch.no_grad():
        for leaf in doubled[2].parameters():
            leaf.mul_(2)
    assert torch.allclose(call(net, phi, x), doubled(x), atol=1e-6)
    with pytest.raises(InputError, match="only frozen ones may be left out"):
        call(net, {"2.weight": phi["2.weight"]}, x)
    with pytest.raises(InputError, match="all are frozen"):
        parameters(net.requires_grad_(False))


def test_parameters_without_tasks_are_shared_by_them() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    body = {name: leaf for name, leaf in parameters(net).items() if name.startswith("0.")}
    head = {name: leaf for name, leaf in parameters(net, tasks=(4,)).items() if name not in body}
    x = torch.randn(4, 5, 2)
    assert torch.allclose(call(net, {**body, **head}, x), net(x), atol=1e-6)
    wrong = {**body, **head, "2.bias": head["2.bias"][:3]}
    with pytest.raises(InputError, match=r"'2.bias'.*\(4,\) here, or none"):
        call(net, wrong, x)


def test_a_parametrised_module_is_called_with_its_originals() -> None:
    module = nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    nn.utils.parametrizations.spectral_norm(module[0])
    nn.utils.parametrizations.weight_norm(module[2])
    module.eval()  # spectral_norm's estimate changes in training
    before = {name: value.clone() for name, value in module.named_parameters()}
    phi = {
        name: (2 * value).requires_grad_() for name, value in parameters(module, tasks=()).items()
    }
    output = call(module, phi, X[0])
    moved = copy.deepcopy(module)
    with torch.no_grad():
        for value in moved.parameters():
            value.mul_(2)
    assert torch.allclose(output, moved(X[0]), rtol=1e-14, atol=1e-15)
    gradients = torch.autograd.grad(output.sum(), list(phi.values()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_the_computed_names_of_a_parametrised_module_are_refused(name: str) -> None:
    module = network()
    nn.utils.parametrizations.weight_norm(module[0])  # type: ignore[index]
    nn.utils.parametrizations.weight_norm(module[2])  # type: ignore[index]
    before = {key: value.clone() for key, value in module.named_parameters()}
    given = parameters(module, tasks=()) | {name: torch.ones(4, 2).double()}
    with pytest.raises(InputError, match=r"computed by a parametrisation .*original0"):
        call(module, given, X[0])
    assert all(torch.equal(value, before[key]) for key, value in module.named_parameters())


class Parted(nn.Module):
    """Three parts; ``head`` and ``header`` are two."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
        self.head = nn.Linear(4, 1, bias=False)
        self.header = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.header(self.head(self.body(x)))
        return answer


def test_parts_are_chosen_by_name() -> None:
    net = Parted()
    assert list(parameters(net, only="head")) == ["head.weight"]
    assert list(parameters(net, only=["head.weight", "header"], tasks=(3,))) == [
        "head.weight",
        "header.weight",
        "header.bias",
    ]
    both = {**parameters(net, only="body.0"), **parameters(net, but=("body",))}
    assert both.keys() == parameters(net).keys()
    assert parameters(net, but="header")["head.weight"] is net.head.weight
    assert not parameters(net, but="head", tasks=())["header.bias"].requires_grad
    net.head.requires_grad_(False)
    assert "head.weight" not in parameters(net, but="body")
    with pytest.raises(InputError, match="only='hea' names no .* body, head, header"):
        parameters(net, only="hea")
    with pytest.raises(InputError, match=r"but='body\.1' names no part"):
        parameters(net, but=["body", "body.1"])
    with pytest.raises(InputError, match="is left by only='head'"):
        parameters(net, only="head")  # frozen


@pytest.mark.parametrize("rest", ["theta", "frozen"])
def test_a_head_as_phi_is_what_it_is_on_the_features(rest: str) -> None:
    """phi a part, the rest in theta or constant: as ridge regression on the body's features."""
    net = Parted().double()
    target, strength = Y, torch.zeros((), dtype=torch.float64, requires_grad=True)
    body = parameters(net, but="head", tasks=None if rest == "theta" else ())
    start = parameters(net, only="head", tasks=(TASKS,))
    theta = {"strength": strength, **(body if rest == "theta" else {})}

    def lower(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        fixed = {name: leaf for name, leaf in theta.items() if name != "strength"} or body
        fit = (call(net, {**fixed, **phi}, X) - target).square().sum((-2, -1))
        return fit + theta["strength"].exp() * phi["head.weight"].square().sum((-2, -1))

    phi = argmin(lower, theta, start, by=Newton(rtol=0.0), adjoint=Implicit(Cholesky()))
    wanted = list(theta.values())
    found = torch.autograd.grad(phi["head.weight"].pow(3).sum(), wanted)

    # by the normal equations: the header is a factor and a shift
    features, scale, shift = net.body(X), net.header.weight[0, 0], net.header.bias[0]
    gram = scale**2 * features.mT @ features + strength.exp() * torch.eye(4).double()
    head = torch.linalg.inv(gram) @ (scale * features.mT @ (target - shift))
    want = torch.autograd.grad(head.pow(3).sum(), wanted)
    for name, one, other in zip(theta, found, want, strict=True):
        assert other.norm() > 0, name
        # systems of condition below 1e3 in float64
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12), name


def test_parts_that_are_tied_or_no_names_are_told() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.dec = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.dec.weight = self.enc.weight

    with pytest.raises(InputError, match=r"only='dec' names parameters that are tied.*enc\.weight"):
        parameters(Tied(), only="dec")
    unchecked: Any = getattr(parameters, "__wrapped__", parameters)  # users run no type checker
    for given in (None, 3, nn.Linear(2, 2), ["enc", 3]):
        with pytest.raises(InputError, match="is no name of a part"):
            unchecked(Tied(), only=given)
