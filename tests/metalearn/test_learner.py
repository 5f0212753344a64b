"""The learner: one pass of the backbone, memory that doesn't grow with K, and the right derivative.

The oracle is written with dense matrices in float64, one task at a time, without hypergrad.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Certificate, GradientDescent, Implicit, Newton, Unrolled
from hypergrad.objectives import SoftmaxRegression
from metalearn.backbones import Conv4
from metalearn.data import Pool
from metalearn.episodes import Episodes, Sampler
from metalearn.errors import ConfigError
from metalearn.head import cross_entropy
from metalearn.learner import Learner, Lower, exact, paper
from tests.metalearn.measure import Convolutions, saved_bytes

COUNTS = (1, 5, 20, 100)


@pytest.fixture(scope="module")
def episodes(train_pool: Pool) -> Episodes:
    return Sampler(pool=train_pool, way=3, shot=2, query=2, seed=0).sample(0, 2)


def learner(lower: Lower, *, l2: float = 0.05) -> Learner:
    generator = torch.Generator().manual_seed(0)
    backbone = Conv4(filters=4, channels=1, size=28, generator=generator)
    return Learner(backbone=backbone, l2=l2, lower=lower)


def ignore(certificate: Certificate) -> None:
    """Take no notice."""


def upper_loss(subject: Learner, episodes: Episodes) -> Tensor:
    return cross_entropy(subject.answer(episodes, watch=ignore), episodes.query_labels).mean()


def kept(subject: Learner, episodes: Episodes) -> int:
    return saved_bytes(lambda: upper_loss(subject, episodes))


@pytest.mark.parametrize("count", COUNTS)
def test_one_upper_step_is_one_forward_and_one_backward(count: int, episodes: Episodes) -> None:
    subject = learner(paper(steps=count, adjoint_steps=count))
    forwards: list[None] = []
    backwards: list[None] = []

    def forward(module: object, given: object, output: Tensor) -> None:
        forwards.append(None)
        output.register_hook(lambda gradient: backwards.append(None))

    subject.backbone.register_forward_hook(forward)
    with Convolutions() as convolutions:
        torch.autograd.backward(upper_loss(subject, episodes))
    assert (len(forwards), len(backwards)) == (1, 1)
    # Four blocks, for support and query of all tasks together.
    assert convolutions.calls == {"convolution": 4, "convolution_backward": 4}


def test_the_papers_method_saves_as_much_for_every_k(episodes: Episodes) -> None:
    found = {
        count: kept(learner(paper(steps=count, adjoint_steps=20)), episodes) for count in COUNTS
    }
    assert set(found.values()) == {found[1]}
    images = episodes.images
    assert found[1] > images.numel() * images.element_size()  # the count sees the backbone's graph


def test_unrolling_saves_linearly_more(episodes: Episodes) -> None:
    found = [
        kept(
            learner(Lower(by=GradientDescent(steps=count, step_size=0.05), adjoint=Unrolled())),
            episodes,
        )
        for count in (5, 10, 15, 20)
    ]
    first = [b - a for a, b in itertools.pairwise(found)]
    assert first[0] > 0
    assert [b - a for a, b in itertools.pairwise(first)] == [0, 0]


def dense_oracle(
    support: Tensor, query: Tensor, episodes: Episodes, task: int, l2: float
) -> tuple[Tensor, Tensor]:
    """Derivative of one task's query loss by its support and query features, both levels exact.

    Newton with the dense Hessian until the gradient is round-off; then Cramer's rule's formula
    -(d2g/dtheta dphi)^T H^-1 df/dphi with the dense matrices.
    """
    head = SoftmaxRegression(episodes.support_labels[task : task + 1], l2)
    size = (episodes.way, support.shape[1])

    def lower(theta: Tensor, flat: Tensor) -> Tensor:
        return head(theta[None], flat.view(1, *size)).sum()

    def upper(features: Tensor, flat: Tensor) -> Tensor:
        logits = features @ flat.view(size).mT
        return cross_entropy(logits[None], episodes.query_labels[task : task + 1]).sum()

    phi = torch.zeros(size[0] * size[1], dtype=torch.float64)
    for _ in range(30):
        phi = phi.detach().requires_grad_()
        (slope,) = torch.autograd.grad(lower(support, phi), phi)
        hessian = torch.autograd.functional.hessian(lambda p: lower(support, p), phi)
        phi = phi - torch.linalg.solve(hessian, slope)
    phi = phi.detach().requires_grad_()
    theta, features = support.clone().requires_grad_(), query.clone().requires_grad_()
    (slope,) = torch.autograd.grad(lower(theta, phi), phi, create_graph=True)
    assert slope.norm() < 1e-13
    direct, right = torch.autograd.grad(upper(features, phi), (features, phi))
    hessian = torch.autograd.functional.hessian(lambda p: lower(support, p), phi)
    v = torch.linalg.solve(hessian, right)
    (cross,) = torch.autograd.grad(slope, theta, v)
    return -cross, direct


@pytest.mark.parametrize("l2", [0.05, 0.01])
def test_exact_preset_is_exact(episodes: Episodes, l2: float) -> None:
    rtol = 1e-9
    episodes = dataclasses.replace(episodes, images=episodes.images.double())
    subject = learner(exact(rtol=rtol), l2=l2)
    subject.backbone.double()
    with torch.no_grad():
        features = subject.features(episodes)
    features.requires_grad_()
    certificates: list[Certificate] = []
    logits = subject.classify(episodes, features, watch=certificates.append)
    loss = cross_entropy(logits, episodes.query_labels).sum()
    (found,) = torch.autograd.grad(loss, features)
    (certificate,) = certificates
    assert certificate.adjoint.converged.all()
    support = episodes.support_labels.shape[1]
    for task in range(2):
        both = features.detach()[task].tensor_split([support])
        expected = torch.cat(dense_oracle(both[0], both[1], episodes, task, l2))
        # phi is off by at most |dg/dphi| / l2, v by rtol |b| / l2 and by the change of H over the
        # error of phi; each derivative of g by features of norm R grows with R at most thrice.
        # In all: condition^2 (R^3 / l2)... bounded by (1 + R^3 / l2)^2 of the tolerances.
        radius = float(features.detach()[task].norm(dim=-1).max())
        slack = (1 + radius**3 / l2) ** 2 * rtol
        assert (found[task] - expected).norm() <= slack * expected.norm()
        assert (found[task] - expected).norm() <= 1e-5 * expected.norm()


def test_many_gradient_steps_become_exact(episodes: Episodes) -> None:
    episodes = dataclasses.replace(episodes, images=episodes.images.double())
    gradients = []
    for lower in (
        exact(rtol=1e-10),
        paper(steps=4000, step_size=0.2, adjoint_steps=60),
        Lower(by=Newton(rtol=1e-10), adjoint=Implicit(CG(rtol=1e-10))),
    ):
        subject = learner(lower, l2=0.1)
        subject.backbone.double()
        torch.autograd.backward(upper_loss(subject, episodes))
        gradients.append(
            torch.cat(
                [p.grad.flatten() for p in subject.backbone.parameters() if p.grad is not None]
            )
        )
    for other in gradients[1:]:
        # 4000 steps contract by (1 - 0.2 * 0.1)^4000 = 8e-36; 60 CG steps pass the 15 dimensions
        # of a head four times over. What is left is the tolerances, amplified.
        assert (other - gradients[0]).norm() <= 1e-6 * gradients[0].norm()


def test_twenty_published_steps_are_far_from_exact(episodes: Episodes) -> None:
    """Why there are two presets; the certificate tells them apart."""
    worst = {}
    for name, lower in (("paper", paper()), ("exact", exact())):
        certificates: list[Certificate] = []
        subject = learner(lower)
        loss = cross_entropy(
            subject.answer(episodes, watch=certificates.append), episodes.query_labels
        ).mean()
        torch.autograd.backward(loss)
        worst[name] = float(certificates[0].stationarity.max())
    assert worst["paper"] > 1000 * worst["exact"]


def test_refuses_statistics_that_it_would_not_use() -> None:
    backbone = Conv4(filters=4, channels=1, size=28, normalisation="stored")
    with pytest.raises(ConfigError, match="stored was given to a Learner"):
        Learner(backbone=backbone, l2=0.1, lower=paper())
