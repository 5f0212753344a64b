"""Memory-reduced, ITD-BiO, ANIL, R2-D2 and ProtoNet against one task at a time, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad import CG, Certificate, GradientDescent, Implicit, Truncated, Unrolled
from metalearn.errors import ConfigError, UnsolvedWarning
from metalearn.methods import LinearHeads, Model, ProtoNet, RidgeHeads
from metalearn.methods.lower import Lower, exact
from tests.metalearn.methods.subjects import (
    FEATURES,
    WAY,
    Task,
    Weights,
    close,
    descend,
    each,
    episodes,
    features,
    found,
    gradient,
    model,
)

STEPS, SIZE, L2 = 4, 0.5, 0.3
DESCENT = GradientDescent(max_steps=STEPS, step_size=SIZE)
UNROLLED = Lower(by=DESCENT, adjoint=Unrolled())
ITD_BIO = LinearHeads(lower=UNROLLED, l2=L2)
ANIL = LinearHeads(lower=UNROLLED, l2=0.0, learn_start=True)
MEMORY_REDUCED = LinearHeads(lower=Lower(by=DESCENT, adjoint=Implicit(CG(rtol=1e-14))), l2=L2)
R2D2 = RidgeHeads(l2=L2, sharpness=3.0)


def head_loss(support: Tensor, labels: Tensor, l2: float, head: Tensor) -> Tensor:
    return F.cross_entropy(support @ head.mT, labels) + l2 / 2 * head.square().sum()


def unrolled(subject: Model, task: Task, start: Tensor, l2: float) -> Tensor:
    support, query = features(subject, task)

    def loss(weights: Weights) -> Tensor:
        return head_loss(support, task[1], l2, weights["head"])

    head = descend(loss, {"head": start}, steps=STEPS, size=SIZE, graph=True)["head"]
    return F.cross_entropy(query @ head.mT, task[3])


def zeros() -> Tensor:
    return torch.zeros(WAY, FEATURES + 1, dtype=torch.float64, requires_grad=True)


def test_itd_bio_is_the_derivative_through_every_step() -> None:
    subject, batch = model(ITD_BIO), episodes()
    losses = [unrolled(subject, task, zeros(), L2) for task in each(batch)]
    expected = gradient(torch.stack(losses).mean(), subject)
    assert close(found(ITD_BIO, subject, batch), expected)
    last = LinearHeads(lower=Lower(by=DESCENT, adjoint=Truncated(steps=STEPS - 1)), l2=L2)
    assert not close(found(last, subject, batch), expected, condition=1e6)


def test_anil_also_learns_where_heads_start() -> None:
    subject, batch = model(ANIL), episodes()
    start = subject.own["head"]
    losses = [unrolled(subject, task, start, 0.0) for task in each(batch)]
    expected = gradient(torch.stack(losses).mean(), subject)
    assert close(found(ANIL, subject, batch), expected)
    # The start's own part is there, and is no small one.
    assert expected[-start.numel() :].norm() > 0.01 * expected.norm()


def test_memory_reduced_solves_the_dense_system() -> None:
    """The adjoint at the last of K steps, with dense matrices: Algorithm 1 with N = infinity."""
    subject, batch = model(MEMORY_REDUCED), episodes()
    parts = []
    for task in each(batch):
        support, query = features(subject, task)

        def lower(flat: Tensor, support: Tensor = support, labels: Tensor = task[1]) -> Tensor:
            return head_loss(support, labels, L2, flat.view(WAY, -1))

        def loss(weights: Weights, support: Tensor = support, task: Task = task) -> Tensor:
            return head_loss(support.detach(), task[1], L2, weights["head"])

        end = descend(loss, {"head": zeros()}, steps=STEPS, size=SIZE, graph=False)["head"]
        phi = end.detach().flatten().requires_grad_()
        upper = F.cross_entropy(query @ phi.view(WAY, -1).mT, task[3])
        (right,) = torch.autograd.grad(upper, phi, retain_graph=True)
        fixed = support.detach()
        hessian = torch.autograd.functional.hessian(
            lambda p, lower=lower, fixed=fixed: lower(p, fixed), phi.detach()
        )
        assert isinstance(hessian, Tensor)
        v = torch.linalg.solve(hessian, right)
        (slope,) = torch.autograd.grad(lower(phi), phi, create_graph=True)
        # d/dtheta of f(theta, phi) - v . dg/dphi, phi and v held: the implicit hypergradient.
        parts.append(upper - slope @ v)
    expected = gradient(torch.stack(parts).mean(), subject)
    assert close(found(MEMORY_REDUCED, subject, batch), expected)
    assert not close(found(ITD_BIO, subject, batch), expected, condition=1e6)


def test_exact_is_the_limit_of_ever_more_unrolled_steps() -> None:
    """Two derivations of one hypergradient: Newton and CG, and 200 differentiated steps."""
    subject, batch = model(MEMORY_REDUCED), episodes()
    # 200 steps contract by (1 - 0.5 * 0.3)^200 = 8e-15, their derivative by 200 times as much.
    many = Lower(by=GradientDescent(max_steps=200, step_size=SIZE), adjoint=Unrolled())
    limit = found(LinearHeads(lower=many, l2=L2), subject, batch)
    # Tolerances of 1e-12 are amplified by the condition 1 + |x|^2 / (2 l2), below 10, at most
    # twice (in phi, and by phi's error in the adjoint).
    exactly = LinearHeads(lower=exact(rtol=1e-12), l2=L2)
    assert close(found(exactly, subject, batch), limit, condition=10)
    assert not close(found(MEMORY_REDUCED, subject, batch), limit, condition=1e6)


def ridge(subject: Model, task: Task, l2: float) -> Tensor:
    """Scores by the normal equations, autograd going through the inverse."""
    support, query = features(subject, task)
    support, query = (subject.own["log_scale"].exp() * part for part in (support, query))
    targets = F.one_hot(task[1], WAY).double()
    eye = torch.eye(FEATURES + 1, dtype=torch.float64)
    normal = support.mT @ support / len(support) + l2 * eye
    head = torch.linalg.solve(normal, support.mT @ targets / len(support))
    answer: Tensor = subject.own["sharpness"] * (query @ head)
    return answer


def test_r2d2_is_the_derivative_through_the_closed_form() -> None:
    subject, batch = model(R2D2), episodes()

    def expected(l2: float) -> Tensor:
        losses = [F.cross_entropy(ridge(subject, task, l2), task[3]) for task in each(batch)]
        return gradient(torch.stack(losses).mean(), subject)

    # Woodbury's identity loses the condition 1 + |x|^2 / l2, below 100, of rounding.
    assert close(found(R2D2, subject, batch), expected(L2), condition=100)
    assert not close(found(R2D2, subject, batch), expected(1.001 * L2), condition=1e6)
    answers = R2D2.predict(subject, batch)
    for task, answer in zip(each(batch), answers, strict=True):
        assert close(answer, ridge(subject, task, L2).detach(), condition=100)


def test_r2d2s_scale_is_its_regulariser() -> None:
    """A scale e^s of the features is a regulariser of l2 e^(-2 s): the same heads' scores."""
    subject, batch = model(R2D2), episodes()
    with torch.no_grad():
        subject.own["log_scale"].fill_(0.4)
    scaled = R2D2.predict(subject, batch)
    with torch.no_grad():
        subject.own["log_scale"].zero_()
    other = RidgeHeads(l2=L2 * math.exp(-0.8), sharpness=3.0).predict(subject, batch)
    assert close(scaled, other, condition=100)


def test_r2d2_reports_an_adjoint_that_was_not_solved() -> None:
    method = RidgeHeads(l2=L2, sharpness=3.0, solver=CG(rtol=1e-12, max_steps=1))
    seen: list[Certificate] = []
    loss = method.loss(model(method), episodes(), watch=seen.append)
    torch.autograd.backward(loss)
    assert not seen[0].adjoint.converged.any()


def test_protonet_is_the_distance_to_class_means() -> None:
    subject, batch = model(ProtoNet()), episodes()

    def naive(power: float) -> list[Tensor]:
        """Scores of each task's queries: minus a power of the distance."""
        answers = []
        for task in each(batch):
            support, query = features(subject, task)
            means = torch.stack([support[task[1] == c].mean(0) for c in range(WAY)])
            answers.append(-torch.stack([(x - means).norm(dim=-1) ** power for x in query]))
        return answers

    def expected(power: float) -> Tensor:
        pairs = zip(naive(power), batch.query_labels, strict=True)
        losses = [F.cross_entropy(scores, labels) for scores, labels in pairs]
        return gradient(torch.stack(losses).mean(), subject)

    for answer, scores in zip(ProtoNet().predict(subject, batch), naive(2), strict=True):
        assert close(answer.softmax(-1), scores.softmax(-1).detach())
    assert close(found(ProtoNet(), subject, batch), expected(2))
    assert not close(found(ProtoNet(), subject, batch), expected(1), condition=1e6)


@pytest.mark.parametrize("method", [ITD_BIO, ANIL, MEMORY_REDUCED])
def test_answers_are_the_fitted_heads(method: LinearHeads) -> None:
    subject, batch = model(method), episodes()
    answers = method.predict(subject, batch)
    assert not answers.requires_grad
    for task, answer in zip(each(batch), answers, strict=True):
        support, query = (part.detach() for part in features(subject, task))
        start = subject.own["head"] if method.learn_start else zeros()

        def loss(weights: Weights, support: Tensor = support, task: Task = task) -> Tensor:
            return head_loss(support, task[1], method.l2, weights["head"])

        head = descend(loss, {"head": start}, steps=STEPS, size=SIZE, graph=False)["head"]
        assert close(answer, (query @ head.mT).detach())


def test_answers_of_heads_that_are_no_minimisers_are_said() -> None:
    early = GradientDescent(max_steps=1, step_size=SIZE, rtol=1e-9)
    method = LinearHeads(lower=Lower(by=early, adjoint=Implicit(CG())), l2=L2)
    with pytest.warns(UnsolvedWarning, match="3 of 3 heads ended above the lower solver's"):
        method.predict(model(method), episodes())


@pytest.mark.parametrize("l2", [-1.0, math.inf, math.nan])
def test_refuses_a_regulariser_that_is_none(l2: float) -> None:
    with pytest.raises(ConfigError, match="l2 was given as"):
        LinearHeads(lower=UNROLLED, l2=l2)
    with pytest.raises(ConfigError, match="l2 was given as"):
        RidgeHeads(l2=l2, sharpness=1.0)


def test_refuses_a_learned_start_whose_derivative_would_be_lost() -> None:
    with pytest.raises(ConfigError, match="does not differentiate the start"):
        LinearHeads(lower=MEMORY_REDUCED.lower, l2=L2, learn_start=True)


def test_a_head_starts_as_torchs_linear_layer_does() -> None:
    generator = torch.Generator().manual_seed(0)
    head = ANIL.variables(features=400, way=50, generator=generator)["head"]
    assert head.shape == (50, 401)
    # Uniform within 1/20: 20,050 draws reach within 1 % of it, and their standard deviation is
    # 1 / (20 sqrt 3) up to 4 / sqrt(2 * 20050) = 2 %.
    assert 0.99 / 20 < head.abs().max() <= 1 / 20
    assert abs(float(head.std()) * 20 * math.sqrt(3) - 1) < 0.02
    assert ITD_BIO.variables(features=400, way=50, generator=generator) == {}
