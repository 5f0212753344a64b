"""MAML, its first order, implicit MAML and Reptile against one task at a time, in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad import (
    CG,
    Adjoint,
    Detached,
    GradientDescent,
    Implicit,
    LowerSolver,
    TorchOptimiser,
    Unrolled,
)
from hypergrad.objectives import call, parameters
from metalearn.backbones import Conv4, ResNet12
from metalearn.errors import ConfigError
from metalearn.methods import ImplicitMaml, Maml, Method, Model, Reptile
from metalearn.methods.lower import Lower
from tests.metalearn.methods.subjects import (
    SHOT,
    TASKS,
    WAY,
    Task,
    Weights,
    close,
    descend,
    each,
    episodes,
    found,
    gradient,
    ignore,
    model,
    network,
    query_loss,
    support_loss,
)

STEPS, SIZE, STRENGTH = 3, 0.4, 2.0
DESCENT = GradientDescent(max_steps=STEPS, step_size=SIZE)
MAML = Maml(lower=Lower(by=DESCENT, adjoint=Unrolled()))
FIRST_ORDER = Maml(lower=Lower(by=DESCENT, adjoint=Detached()))
REPTILE = Reptile(lower=Lower(by=DESCENT, adjoint=Detached()))
IMPLICIT = ImplicitMaml(
    lower=Lower(by=DESCENT, adjoint=Implicit(CG(rtol=1e-14))), strength=STRENGTH
)


def maml(subject: Model, task: Task, *, first_order: bool = False) -> Tensor:
    start: Weights = dict(subject.named_parameters())
    loss = support_loss(subject, task)
    weights = descend(loss, start, steps=STEPS, size=SIZE, graph=not first_order)
    return query_loss(subject, task, weights)


def test_maml_is_the_derivative_through_every_step() -> None:
    subject, batch = model(MAML), episodes()
    expected = torch.stack([maml(subject, task) for task in each(batch)]).mean()
    loss = MAML.loss(subject, batch, watch=ignore)
    assert close(loss.detach(), expected.detach())
    assert close(gradient(loss, subject), gradient(expected, subject))


def test_first_order_maml_lets_the_steps_second_derivatives_out() -> None:
    subject, batch = model(FIRST_ORDER), episodes()
    losses = [maml(subject, task, first_order=True) for task in each(batch)]
    expected = gradient(torch.stack(losses).mean(), subject)
    assert close(found(FIRST_ORDER, subject, batch), expected)
    # ... and that is not MAML: the check above would notice one in place of the other.
    assert not close(found(MAML, subject, batch), expected, condition=1e7)


def implicit(subject: Model, task: Task) -> Tensor:
    """One task's part of the hypergradient, by the dense Hessian: strength H^-1 df/dphi."""
    theta = {name: value.detach() for name, value in subject.named_parameters()}
    shapes = [value.shape for value in theta.values()]
    flat_theta = torch.cat([value.flatten() for value in theta.values()])

    def tree(flat: Tensor) -> Weights:
        parts = flat.split([shape.numel() for shape in shapes])
        return {n: p.view(s) for n, p, s in zip(theta, parts, shapes, strict=True)}

    def lower(flat: Tensor) -> Tensor:
        tie = STRENGTH / 2 * (flat - flat_theta).square().sum()
        return support_loss(subject, task)(tree(flat)) + tie

    phi = flat_theta.clone().requires_grad_()
    for _ in range(STEPS):
        phi = (phi - SIZE * torch.autograd.grad(lower(phi), phi)[0]).detach().requires_grad_()
    (right,) = torch.autograd.grad(query_loss(subject, task, tree(phi)), phi)
    hessian = torch.autograd.functional.hessian(lower, phi.detach())
    assert isinstance(hessian, Tensor)
    assert torch.linalg.eigvalsh(hessian).min() > 0
    solved: Tensor = torch.linalg.solve(hessian, right)
    return STRENGTH * solved


def test_implicit_maml_solves_the_dense_system() -> None:
    subject, batch = model(IMPLICIT), episodes()
    expected = torch.stack([implicit(subject, task) for task in each(batch)]).mean(0)
    # CG stops at a residual of 1e-14; the Hessian's condition, below 10, multiplies it.
    assert close(found(IMPLICIT, subject, batch), expected)
    other = dataclasses.replace(IMPLICIT, strength=1.01 * STRENGTH)
    assert not close(found(other, subject, batch), expected, condition=1e6)


def test_reptile_points_from_the_adapted_weights_to_the_initial_ones() -> None:
    subject, batch = model(REPTILE), episodes()
    start: Weights = dict(subject.named_parameters())
    moves = []
    for images, support, query in zip(
        batch.images, batch.support_labels, batch.query_labels, strict=True
    ):
        labels = torch.cat((support, query))

        def loss(weights: Weights, images: Tensor = images, labels: Tensor = labels) -> Tensor:
            return F.cross_entropy(network(subject, weights, images), labels)

        weights = descend(loss, start, steps=STEPS, size=SIZE, graph=False)
        moves.append(torch.cat([(start[n] - w).detach().flatten() for n, w in weights.items()]))
    assert close(found(REPTILE, subject, batch), torch.stack(moves).mean(0))


def test_reptiles_sgd_step_is_the_published_update() -> None:
    subject, batch = model(REPTILE), episodes(tasks=1)
    before = {name: value.detach().clone() for name, value in subject.named_parameters()}
    loss = REPTILE.loss(subject, batch, watch=ignore)
    torch.autograd.backward(loss)
    torch.optim.SGD(subject.parameters(), lr=1.0).step()
    # One task and a learning rate of 1: the weights are the adapted ones, whose distance from
    # where they began is what the loss said.
    moved = [(value - before[name]).square().sum() for name, value in subject.named_parameters()]
    assert close(torch.stack(moved).sum().detach() / 2, loss.detach())


ALL: list[Method] = [MAML, FIRST_ORDER, IMPLICIT, REPTILE]


@pytest.mark.parametrize("method", ALL, ids=["maml", "fomaml", "imaml", "reptile"])
def test_answers_are_the_adapted_networks(method: Method) -> None:
    subject, batch = model(method), episodes()
    answers = method.predict(subject, batch)
    assert answers.shape == (*batch.query_labels.shape, WAY)
    assert not answers.requires_grad
    start = {name: value.detach() for name, value in subject.named_parameters()}
    for task, answer in zip(each(batch), answers, strict=True):

        def loss(weights: Weights, task: Task = task) -> Tensor:
            value = support_loss(subject, task)(weights)
            if method is not IMPLICIT:
                return value
            tie = [(weights[name] - start[name]).square().sum() for name in start]
            return value + STRENGTH / 2 * torch.stack(tie).sum()

        live = {name: value.clone().requires_grad_() for name, value in start.items()}
        weights = descend(loss, live, steps=STEPS, size=SIZE, graph=False)
        assert close(answer, network(subject, weights, task[2]).detach())


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.1)


@pytest.mark.parametrize("test", [GradientDescent(max_steps=0, step_size=1.0), DESCENT])
@pytest.mark.parametrize("method", ALL, ids=["maml", "fomaml", "imaml", "reptile"])
def test_testing_may_take_other_steps(method: Method, test: LowerSolver) -> None:
    assert isinstance(method, Maml | ImplicitMaml | Reptile)
    subject, batch = model(method), episodes()
    lower = dataclasses.replace(method.lower, test=test)
    answers = dataclasses.replace(method, lower=lower).predict(subject, batch)
    assert torch.equal(answers, method.predict(subject, batch)) == (test is DESCENT)


def test_a_torch_optimiser_may_adapt() -> None:
    method = Reptile(lower=Lower(by=TorchOptimiser(make=adam, max_steps=3), adjoint=Detached()))
    subject, batch = model(method), episodes()
    together = found(method, subject, batch)
    alone = [
        found(
            method,
            subject,
            dataclasses.replace(
                batch,
                images=batch.images[i : i + 1],
                support_labels=batch.support_labels[i : i + 1],
                query_labels=batch.query_labels[i : i + 1],
            ),
        )
        for i in range(TASKS)
    ]
    # Adam divides by the size of each gradient, where that is not far above rounding (1e-16 /
    # 1e-8, its epsilon): up to 1e-8 of a step.
    assert close(together, torch.stack(alone).mean(0), condition=1e2)


@pytest.mark.parametrize(
    ("normalisation", "layout"),
    [
        ("transductive", torch.contiguous_format),
        ("transductive", torch.channels_last),
        ("group", torch.contiguous_format),
    ],
)
def test_conv4_is_adapted_task_by_task(normalisation: str, layout: torch.memory_format) -> None:
    backbone = Conv4(
        filters=8,
        channels=1,
        size=16,
        normalisation=normalisation,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )
    method = Maml(lower=Lower(by=GradientDescent(max_steps=2, step_size=0.1), adjoint=Unrolled()))
    subject, batch = model(method, backbone), episodes(tasks=2, side=16)
    subject.to(memory_format=layout)  # type: ignore[call-overload]
    losses = []
    for task in each(batch):
        start: Weights = dict(subject.named_parameters())
        loss = support_loss(subject, task)
        weights = descend(loss, start, steps=2, size=0.1, graph=True)
        losses.append(query_loss(subject, task, weights))
    expected = gradient(torch.stack(losses).mean(), subject)
    # Smooth almost everywhere: no value of this seed lies within rounding of a kink.
    assert close(found(method, subject, batch), expected)


def test_all_tasks_at_once_are_each_task() -> None:
    """How a GPU runs them, against how a CPU does."""
    backbone = Conv4(filters=8, channels=1, size=16, generator=torch.Generator().manual_seed(0))
    subject, batch = model(ALL[0], backbone), episodes(tasks=3, side=16)
    weights = parameters(subject, tasks=(3,))
    generator = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        noise = torch.rand(value.shape, generator=generator, dtype=value.dtype)
        weights[name] = value * (1 + 0.1 * noise)
    for value in weights.values():
        value.requires_grad_()
    once = call(subject, weights, batch.images)
    alone = [
        call(subject, {name: value[index] for name, value in weights.items()}, images)
        for index, images in enumerate(batch.images)
    ]
    assert close(once, torch.stack(alone))
    slopes = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(of.square().sum(), list(weights.values()))]
        )
        for of in (once, torch.stack(alone))
    ]
    assert close(*slopes)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Conv4(filters=4, channels=1, size=16, normalisation="stored"), "stored .* transductive"),
        (Conv4(filters=4, channels=1, size=16, recompute=True), "recompute .* tasks_per_chunk"),
        (ResNet12(filters=(2, 2, 2, 2), channels=1, size=16, block=1), "drop_rate 0.1"),
    ],
)
@pytest.mark.parametrize("method", ALL, ids=["maml", "fomaml", "imaml", "reptile"])
def test_refuses_what_no_lower_objective_can_be(
    method: Method, backbone: Conv4 | ResNet12, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        method.loss(model(method, backbone), episodes(side=16), watch=ignore)


def test_refuses_a_head_for_other_classes() -> None:
    batch = episodes()
    kept = [label for label in range(WAY * SHOT) if label % WAY < 2]
    fewer = dataclasses.replace(batch, support_labels=batch.support_labels[:, kept], way=2)
    with pytest.raises(ConfigError, match="3 classes, but the tasks have 2"):
        MAML.loss(model(MAML), fewer, watch=ignore)


def test_refuses_a_strength_of_nothing() -> None:
    with pytest.raises(ConfigError, match="strength was given as 0"):
        ImplicitMaml(lower=Lower(by=DESCENT, adjoint=Unrolled()), strength=0.0)


@pytest.mark.parametrize(
    ("kind", "adjoint", "expected"),
    [
        (Maml, IMPLICIT.lower.adjoint, "does not differentiate the start: use Unrolled"),
        (Reptile, IMPLICIT.lower.adjoint, "differentiates nothing: use Detached"),
        (Reptile, Unrolled(), "differentiates nothing: use Detached"),
    ],
)
def test_adjoints_that_a_method_cannot_use_are_refused(
    kind: type[Maml | Reptile], adjoint: Adjoint, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        kind(lower=Lower(by=DESCENT, adjoint=adjoint))
