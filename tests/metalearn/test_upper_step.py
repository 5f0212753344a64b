"""The learner: one pass of the backbone, memory that doesn't grow with K, and the right derivative.

The oracle is written with dense matrices in float64, one task at a time, without hypergrad.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hypergrad import Certificate, GradientDescent, Unrolled
from hypergrad.objectives import SoftmaxRegression
from metalearn.backbones import Conv4
from metalearn.data import Pool
from metalearn.methods import LinearHeads, Model
from metalearn.methods.lower import Lower, exact, paper
from metalearn.tasks.episodes import Episodes, Sampler
from tests.metalearn.measure import Convolutions, saved_bytes

COUNTS = (1, 5, 20, 100)


@pytest.fixture(scope="module")
def episodes(train_pool: Pool) -> Episodes:
    return Sampler(pool=train_pool, way=3, shot=2, query=2, seed=0).sample(0, 2)


@dataclasses.dataclass
class Subject:
    """Heads on a small backbone."""

    method: LinearHeads
    model: Model


def subject_of(lower: Lower, *, l2: float = 0.05) -> Subject:
    generator = torch.Generator().manual_seed(0)
    backbone = Conv4(filters=4, channels=1, size=28, generator=generator)
    return Subject(LinearHeads(lower=lower, l2=l2), Model(backbone, {}))


def ignore(certificate: Certificate) -> None:
    """Take no notice."""


def upper_loss(
    subject: Subject, episodes: Episodes, *, watch: Callable[[Certificate], None] = ignore
) -> Tensor:
    return subject.method.loss(subject.model, episodes, watch=watch)


def kept(subject: Subject, episodes: Episodes) -> int:
    return saved_bytes(lambda: upper_loss(subject, episodes))


@pytest.mark.parametrize("count", COUNTS)
def test_one_upper_step_is_one_forward_and_one_backward(count: int, episodes: Episodes) -> None:
    subject = subject_of(paper(steps=count, adjoint_steps=count))
    forwards: list[None] = []
    backwards: list[None] = []

    def forward(module: object, given: object, output: Tensor) -> None:
        forwards.append(None)
        output.register_hook(lambda gradient: backwards.append(None))

    subject.model.backbone.register_forward_hook(forward)
    with Convolutions() as convolutions:
        torch.autograd.backward(upper_loss(subject, episodes))
    assert (len(forwards), len(backwards)) == (1, 1)
    # Four blocks, for support and query of all tasks together.
    assert convolutions.calls == {"convolution": 4, "convolution_backward": 4}


def test_the_papers_method_saves_as_much_for_every_k(episodes: Episodes) -> None:
    found = {
        count: kept(subject_of(paper(steps=count, adjoint_steps=20)), episodes) for count in COUNTS
    }
    assert set(found.values()) == {found[1]}
    images = episodes.images
    assert found[1] > images.numel() * images.element_size()  # the count sees the backbone's graph


def test_unrolling_saves_linearly_more(episodes: Episodes) -> None:
    found = [
        kept(
            subject_of(
                Lower(by=GradientDescent(max_steps=count, step_size=0.05), adjoint=Unrolled())
            ),
            episodes,
        )
        for count in (5, 10, 15, 20)
    ]
    first = [b - a for a, b in itertools.pairwise(found)]
    assert first[0] > 0
    assert [b - a for a, b in itertools.pairwise(first)] == [0, 0]


@dataclasses.dataclass
class Dense:
    """One task's exact answer at a given head, with dense matrices and without hypergrad.

    Attributes:
        by_features: derivative of the query loss by the task's support and query features.
        slope: |dg/dphi| at the head.
        least: smallest eigenvalue of the Hessian.
        condition: largest over smallest eigenvalue.
        cross: spectral norm of d2g/dtheta dphi.
        right: |df/dphi|.
    """

    by_features: Tensor
    slope: float
    least: float
    condition: float
    cross: float
    right: float


def dense(features: Tensor, phi: Tensor, episodes: Episodes, task: int, l2: float) -> Dense:
    """-(d2g/dtheta dphi)^T H^-1 df/dphi and df/dtheta, all from full matrices."""
    labels, way = episodes.support_labels[task], episodes.way
    support, query = features.tensor_split([len(labels)])

    def lower(theta: Tensor, flat: Tensor) -> Tensor:
        head = flat.view(way, -1)
        fit = torch.nn.functional.cross_entropy(theta @ head.mT, labels)
        return fit + l2 / 2 * flat.square().sum()

    theta, own = support.clone().requires_grad_(), query.clone().requires_grad_()
    flat = phi.flatten().clone().requires_grad_()
    (slope,) = torch.autograd.grad(lower(theta, flat), flat, create_graph=True)
    loss = torch.nn.functional.cross_entropy(
        own @ flat.view(way, -1).mT, episodes.query_labels[task]
    )
    direct, right = torch.autograd.grad(loss, (own, flat))
    hessian = torch.autograd.functional.hessian(lambda at: lower(support, at), flat.detach())
    rows = [torch.autograd.grad(part, theta, retain_graph=True)[0].flatten() for part in slope]
    cross = torch.stack(rows)
    indirect = -(torch.linalg.solve(hessian, right) @ cross).view_as(support)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    return Dense(
        by_features=torch.cat((indirect, direct)),
        slope=float(slope.detach().norm()),
        least=float(eigenvalues[0]),
        condition=float(eigenvalues[-1] / eigenvalues[0]),
        cross=float(torch.linalg.matrix_norm(cross, ord=2)),
        right=float(right.norm()),
    )


class Given(nn.Module):
    """A backbone that takes features for images."""

    features, recompute = 0, False

    def forward(self, images: Tensor, support: int) -> Tensor:
        return images.flatten(2)[..., :-1]  # the constant is appended again


def by_features(
    subject: Subject,
    episodes: Episodes,
    features: Tensor,
    *,
    watch: Callable[[Certificate], None],
) -> Tensor:
    """Derivative of the sum of the tasks' losses by the features; 0 for the constant."""
    given = dataclasses.replace(episodes, images=features[..., None, None])
    loss = subject.method.loss(Model(Given(), {}), given, watch=watch)
    (found,) = torch.autograd.grad(loss, features)
    return found * len(features)


SOLVED = {
    "exact": (exact(rtol=1e-9), 0.05),
    "exact, less regular": (exact(rtol=1e-9), 0.01),
    # (1 - 0.2 * 0.1)^4000 = 8e-36 of the way are left; a head has at most 30 dimensions for CG
    "paper, 4000 steps": (paper(steps=4000, step_size=0.2, adjoint_steps=120), 0.1),
}


@pytest.mark.parametrize("name", SOLVED)
def test_both_presets_become_exact(episodes: Episodes, name: str) -> None:
    lower, l2 = SOLVED[name]
    episodes = dataclasses.replace(episodes, images=episodes.images.double())
    subject = subject_of(lower, l2=l2)
    count = episodes.support_labels.shape[1]
    with torch.no_grad():
        features = subject.model.double().features(episodes.images, count)
    start = features.new_zeros(2, episodes.way, features.shape[2])
    objective = SoftmaxRegression(episodes.support_labels, l2)
    reached = lower.by.minimise(objective, features[:, :count], start).phi  # as `answer` will

    features.requires_grad_()
    certificates: list[Certificate] = []
    found = by_features(subject, episodes, features, watch=certificates.append)
    (certificate,) = certificates

    u = torch.finfo(torch.float64).eps / 2
    for task in range(2):
        own = features.detach()[task]
        right = dense(own, reached[task], episodes, task, l2)
        flat = dense(own, start[task], episodes, task, l2)
        # The lower level: to 1e-9 of the first gradient, or to the rounding of a gradient: of
        # sums of `count` products of a feature and a probability, and of l2 phi.
        size = float(own.norm(dim=-1).max()) + l2 * float(reached[task].norm())
        assert right.slope <= max(1e-9 * flat.slope, 1e2 * count * u * size)
        # The adjoint at the phi reached: an error of v is at most |r|/mu, it enters by the cross
        # derivative; rounding as in theory.md, section 6, with |v| <= |b|/mu.
        v = right.right / right.least
        residual = float(certificate.adjoint.residual[task])
        bound = right.cross * v * (residual + 1e2 * u * right.condition)
        assert (found[task] - right.by_features)[:, :-1].norm() <= bound
        assert bound <= 1e-5 * right.by_features.norm()  # so that it shows something


def test_a_residual_that_is_not_the_solves_would_be_noticed(episodes: Episodes) -> None:
    # Five CG steps instead of 120, at the same phi: further away than the bound allows.
    episodes = dataclasses.replace(episodes, images=episodes.images.double())
    _, l2 = SOLVED["exact"]
    subject = subject_of(
        Lower(by=exact(rtol=1e-9).by, adjoint=paper(adjoint_steps=5).adjoint), l2=l2
    )
    count = episodes.support_labels.shape[1]
    with torch.no_grad():
        features = subject.model.double().features(episodes.images, count)
    start = features.new_zeros(2, episodes.way, features.shape[2])
    objective = SoftmaxRegression(episodes.support_labels, l2)
    reached = subject.method.lower.by.minimise(objective, features[:, :count], start).phi
    features.requires_grad_()
    found = by_features(subject, episodes, features, watch=ignore)
    right = dense(features.detach()[0], reached[0], episodes, 0, l2)
    v = right.right / right.least
    assert (found[0] - right.by_features)[:, :-1].norm() > right.cross * v * 1e-9


def test_twenty_published_steps_are_far_from_exact(episodes: Episodes) -> None:
    """Why there are two presets; the certificate tells them apart."""
    worst = {}
    for name, lower in (("paper", paper()), ("exact", exact())):
        certificates: list[Certificate] = []
        subject = subject_of(lower)
        torch.autograd.backward(upper_loss(subject, episodes, watch=certificates.append))
        worst[name] = float(certificates[0].stationarity.max())
    assert worst["paper"] > 1000 * worst["exact"]
