"""Steps by a pure function: the same as torch.optim's, and differentiated in their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from hypergrad import (
    Descent,
    Detached,
    Forward,
    GradientDescent,
    Implicit,
    TorchOptimiser,
    Truncated,
    Unrolled,
    argmin,
    deferred,
    updates,
)
from hypergrad.errors import InputError
from tests.hypergrad.problems import Toy

TOY = Toy((3,))
SIZE = 0.05
RULES: list[tuple[updates.Update, Callable[[list[Tensor]], torch.optim.Optimizer]]] = [
    (updates.Scaled(step_size=SIZE), lambda p: torch.optim.SGD(p, lr=SIZE)),
    (updates.Momentum(step_size=SIZE), lambda p: torch.optim.SGD(p, lr=SIZE, momentum=0.9)),
    (updates.Adam(step_size=SIZE), lambda p: torch.optim.Adam(p, lr=SIZE)),
    (
        updates.AdamW(step_size=SIZE, weight_decay=0.5),
        lambda p: torch.optim.AdamW(p, lr=SIZE, weight_decay=0.5),
    ),
]


def minimised(update: updates.Update, adjoint: Any, theta: Tensor, *, steps: int = 4) -> Tensor:
    by = Descent(update=update, max_steps=steps)
    return argmin(TOY.lower, theta, TOY.start, by=by, adjoint=adjoint)


@pytest.mark.parametrize(("update", "make"), RULES)
def test_the_steps_are_those_of_torch_optim(update: updates.Update, make: Any) -> None:
    ours = Descent(update=update, max_steps=7).minimise(TOY.lower, TOY.theta, TOY.start)
    theirs = TorchOptimiser(make=make, max_steps=7).minimise(TOY.lower, TOY.theta, TOY.start)
    # the same operations in another order: a few roundings for each of the steps
    assert torch.allclose(ours.phi, theirs.phi, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("update", "make"), RULES)
def test_they_are_differentiated_in_theta_by_every_unrolling_adjoint(
    update: updates.Update, make: Any
) -> None:
    def through(adjoint: Any) -> Callable[[Tensor], Tensor]:
        return lambda theta: minimised(update, adjoint, theta).square().sum()

    theta = TOY.theta.clone().requires_grad_()
    assert torch.autograd.gradcheck(through(Unrolled()), theta)
    (unrolled,) = torch.autograd.grad(through(Unrolled())(theta), theta)
    for adjoint in (Truncated(steps=4), Forward()):
        (other,) = torch.autograd.grad(through(adjoint)(theta), theta)
        assert torch.allclose(other, unrolled, rtol=1e-12)


@pytest.mark.parametrize("update", [update for update, _ in RULES], ids=str)
@pytest.mark.parametrize("window", [1, 2])
def test_a_truncated_window_differentiates_its_last_steps_only(
    update: updates.Update, window: int
) -> None:
    theta = TOY.theta.clone().requires_grad_()
    (found,) = torch.autograd.grad(
        minimised(update, Truncated(steps=window), theta, steps=5).square().sum(), theta
    )
    # by hand: what the steps before the window leave, memory too, is a constant
    phi, memory = TOY.start, cast(tuple[Tensor, ...], ())
    for step in range(1, 6):
        inside = step > 5 - window
        with torch.set_grad_enabled(True):
            at = phi if phi.requires_grad else phi.clone().requires_grad_()
            value = TOY.lower(theta if inside else theta.detach(), at).sum()
            (slope,) = torch.autograd.grad(value, at, create_graph=inside)
        # the tasks' numbers, or one for all
        count: Any = torch.full((3,), step) if window == 1 else step
        phi, memory = update(at if inside else phi, slope, memory, count)
    (wanted,) = torch.autograd.grad(phi.square().sum(), theta)
    whole = torch.autograd.grad(minimised(update, Unrolled(), theta, steps=5).square().sum(), theta)
    # the same operations: a few roundings
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found, whole[0], rtol=1e-3)


def test_step_sizes_of_each_parameter_are_learned() -> None:
    stiffness = {"a": 8.0, "b": 0.5}
    sizes = {name: torch.tensor(0.1, dtype=torch.float64, requires_grad=True) for name in stiffness}
    start = {name: torch.ones(3, dtype=torch.float64) for name in stiffness}

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        parts = [stiffness[name] * (leaf - theta).square().sum() for name, leaf in phi.items()]
        return torch.stack(parts).sum() / 2

    def remaining() -> Tensor:
        by = Descent(update=updates.Scaled(step_size=sizes), max_steps=2)
        phi = argmin(lower, torch.zeros((), dtype=torch.float64), start, by=by, adjoint=Unrolled())
        return torch.stack([leaf.square().mean() for leaf in phi.values()]).sum()

    optimiser = torch.optim.Adam(sizes.values(), lr=0.05)
    first = float(remaining().detach())
    for _ in range(40):
        optimiser.zero_grad()
        remaining().backward()
        optimiser.step()
    # 1 / stiffness ends a quadratic in one step; the remainder is (1 - size stiffness)^4
    assert float(remaining().detach()) < first / 20
    assert float(sizes["a"].detach()) < 0.2
    assert float(sizes["b"].detach()) > 1


def settings(step_size: Tensor, decay: Tensor) -> list[updates.Update]:
    return [
        updates.Scaled(step_size=step_size),
        updates.Momentum(step_size=step_size, decay=decay),
        updates.Adam(step_size=step_size, decay=decay, square_decay=decay + 0.05),
        updates.AdamW(step_size=step_size, weight_decay=decay),
    ]


@pytest.mark.parametrize("which", range(4))
def test_unrolled_differentiates_step_sizes_and_decays(which: int) -> None:
    sizes = torch.linspace(0.02, 0.08, 5, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def value(sizes: Tensor, decay: Tensor) -> Tensor:
        update = settings(sizes, decay)[which]
        return minimised(update, Unrolled(), TOY.theta).square().sum() + 0 * decay

    assert torch.autograd.gradcheck(value, (sizes, decay))


def test_one_step_per_entry_of_a_quadratic_is_the_closed_form() -> None:
    a = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    target = torch.ones(3, dtype=torch.float64)
    by = Descent(update=updates.Scaled(step_size=a), max_steps=5)
    found = argmin(
        lambda t, p: (p - t).square().sum(), target, torch.zeros_like(target), by=by,
        adjoint=Unrolled(),
    )  # fmt: skip
    (slope,) = torch.autograd.grad(found.sum(), a)
    assert torch.allclose(found, 1 - (1 - 2 * a) ** 5)
    assert torch.allclose(slope, 10 * (1 - 2 * a) ** 4)


def test_step_sizes_may_be_a_tree_like_phi() -> None:
    sizes = {
        "b": torch.tensor(0.1, dtype=torch.float64),
        "a": torch.tensor([0.2, 0.3], dtype=torch.float64),
    }
    phi = {name: torch.zeros(2, dtype=torch.float64) for name in sizes}

    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return (phi["a"] - theta).square().sum() + (phi["b"] - theta).square().sum()

    one = torch.ones((), dtype=torch.float64)
    by = Descent(update=updates.Scaled(step_size=sizes), max_steps=1)
    found = by.minimise(lower, one, phi).phi
    assert torch.allclose(found["a"], 2 * sizes["a"])
    assert torch.allclose(found["b"], 2 * sizes["b"].expand(2))
    other = Descent(update=updates.Scaled(step_size={"c": one}), max_steps=1)
    with pytest.raises(InputError, match=r"step_size\['c'\]; give .* a tree like phi"):
        other.minimise(lower, one, phi)


@pytest.mark.parametrize(
    "adjoint",
    [Implicit(), Detached(), Truncated(steps=1), Forward()],
    ids=lambda a: type(a).__name__,
)
def test_others_refuse_step_sizes_that_require_grad(adjoint: Any) -> None:
    size = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    theta = TOY.theta.clone().requires_grad_()
    with pytest.raises(InputError, match=r"Descent.* requires grad, a step size perhaps"):
        minimised(updates.Scaled(step_size=size), adjoint, theta)
    minimised(updates.Scaled(step_size=size.detach()), adjoint, theta)


def test_gradient_descent_names_the_way_to_tensors() -> None:
    with pytest.raises(InputError, match=r"a tensor of shape \(\).*Descent\(update="):
        updates_refused()


def updates_refused() -> None:
    solver = GradientDescent(max_steps=1, step_size=0.1)
    object.__setattr__(solver, "step_size", torch.tensor(0.1))  # past the runtime checker
    solver.__post_init__()


def test_a_task_that_has_met_its_tolerance_stays() -> None:
    update = updates.Momentum(step_size=SIZE, decay=0.5)
    by = Descent(update=update, max_steps=500, rtol=1e-6)
    found = by.minimise(TOY.lower, TOY.theta, TOY.start)
    assert found.converged is not None
    assert found.converged.all()
    assert found.steps < 400
    counts = by.taken(TOY.lower, TOY.theta, TOY.start)
    alone = Descent(update=update, max_steps=int(counts[0]))
    expected = alone.minimise(TOY.lower, TOY.theta, TOY.start).phi[0]
    assert torch.allclose(found.phi[0], expected, rtol=1e-14)


def test_a_function_of_ones_own() -> None:
    def signed(phi: Any, gradient: Any, memory: Any, step: Tensor) -> Any:
        return phi - 0.1 / step[..., None] * gradient.sign(), ()

    found = Descent(update=signed, max_steps=3).minimise(TOY.lower, TOY.theta, TOY.start)
    assert torch.isclose(found.phi.abs().max(), torch.tensor(0.1 + 0.05 + 0.1 / 3).double())

    def wrong(phi: Any, gradient: Any, memory: Any, step: Tensor) -> Any:
        return phi[..., :1], ()

    with pytest.raises(InputError, match="must return \\(phi, memory\\) with a phi like"):
        Descent(update=wrong, max_steps=3).minimise(TOY.lower, TOY.theta, TOY.start)

    def forgetful(phi: Any, gradient: Any, memory: Any, step: Tensor) -> Any:
        return phi - gradient

    with pytest.raises(InputError, match="returned a Tensor; it must return \\(phi, memory\\)"):
        Descent(update=forgetful, max_steps=3).minimise(TOY.lower, TOY.theta, TOY.start)


def test_what_is_no_update_is_refused() -> None:
    solver = Descent(update=updates.Scaled(step_size=0.1), max_steps=1)
    object.__setattr__(solver, "update", updates.Adam)  # past the runtime checker
    with pytest.raises(InputError, match="update=the class Adam"):
        solver.__post_init__()


def test_adam_has_a_derivative_where_the_gradient_is_zero() -> None:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    by = Descent(update=updates.Adam(step_size=0.1), max_steps=2)
    start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = argmin(lambda t, p: (p - t).square().sum(), theta, start, by=by, adjoint=Unrolled())
    (slope,) = torch.autograd.grad(found.sum(), theta)
    assert slope.isfinite().all()


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decays_that_divide_by_zero_or_grow_are_refused(decay: float) -> None:
    with pytest.raises(InputError, match=r"Momentum got decay=.*must be in \[0, 1\)"):
        updates.Momentum(step_size=SIZE, decay=decay)
    with pytest.raises(InputError, match="Adam got decay="):
        updates.Adam(step_size=SIZE, decay=decay)
    with pytest.raises(InputError, match="Adam got square_decay="):
        updates.Adam(step_size=SIZE, square_decay=decay)
    with pytest.raises(InputError, match="AdamW got square_decay="):
        updates.AdamW(step_size=SIZE, square_decay=decay)
    with pytest.raises(InputError, match="AdamW got weight_decay="):
        updates.AdamW(step_size=SIZE, weight_decay=decay)


@pytest.mark.parametrize(
    "wrong", [torch.tensor(-1.0), torch.tensor([0.1, float("nan")]), {"a": torch.tensor(-1e-30)}]
)
@pytest.mark.parametrize("update", [updates.Scaled, updates.Momentum, updates.Adam, updates.AdamW])
def test_tensors_of_step_sizes_with_a_negative_entry_are_refused(update: Any, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"{update.__name__} got step_size.*negative or not fin"):
        update(step_size=wrong)
    with deferred():  # where nothing is looked at
        update(step_size=wrong)


def test_a_step_size_of_zero_leaves_an_unknown_where_it_is() -> None:
    update = updates.Scaled(step_size=torch.tensor([0.0, 0.5]))
    moved, _ = update(torch.ones(2), torch.ones(2), (), torch.tensor(1))
    assert moved.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("decay", [torch.tensor(1.0), torch.tensor(-0.1)])
def test_tensors_of_decays_outside_of_their_range_are_refused(decay: Tensor) -> None:
    with pytest.raises(InputError, match=r"Momentum got decay=.*must be in \[0, 1\)"):
        updates.Momentum(step_size=SIZE, decay=decay)
    with pytest.raises(InputError, match="Adam got square_decay="):
        updates.Adam(step_size=SIZE, square_decay=decay)
