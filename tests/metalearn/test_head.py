"""The lower objective: its value, its strong convexity, its independence across tasks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.objectives import SoftmaxRegression
from metalearn.methods.head import cross_entropy, scores, with_constant

TASKS, IMAGES, CLASSES, FEATURES = 3, 6, 4, 5
EPS = torch.finfo(torch.float64).eps


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(TASKS, IMAGES, FEATURES, generator=generator, dtype=torch.float64)
    phi = torch.randn(TASKS, CLASSES, FEATURES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (TASKS, IMAGES), generator=generator)
    return theta, phi, labels


def test_value_is_the_sum_written_out() -> None:
    theta, phi, labels = problem(0)
    found = SoftmaxRegression(labels, 0.3)(theta, phi)
    for task in range(TASKS):
        fit = 0.0
        for image in range(IMAGES):
            logits = [float(w @ theta[task, image]) for w in phi[task]]
            total = math.log(sum(map(math.exp, logits)))
            fit += (total - logits[int(labels[task, image])]) / IMAGES
        expected = fit + 0.15 * float((phi[task] ** 2).sum())
        # A few dozen operations on numbers of size ~10.
        assert abs(found[task].item() - expected) <= 100 * 10 * EPS


def test_cross_entropy_is_torchs() -> None:
    theta, phi, labels = problem(1)
    logits = scores(phi, theta)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    difference = cross_entropy(logits, labels) - expected.view(TASKS, IMAGES).mean(1)
    assert difference.abs().max() <= 20 * EPS * logits.abs().max()


def test_cross_entropy_survives_large_scores() -> None:
    logits = torch.tensor([[[3000.0, 0.0]]])
    assert cross_entropy(logits, torch.tensor([[0]])).item() == 0
    assert cross_entropy(logits, torch.tensor([[1]])).item() == 3000


def test_hessian_is_at_least_l2_and_blocks_are_apart() -> None:
    theta, phi, labels = problem(2)
    l2 = 0.01
    head = SoftmaxRegression(labels, l2)
    hessian = torch.autograd.functional.hessian(lambda p: head(theta, p).sum(), phi)
    assert isinstance(hessian, Tensor)
    size = CLASSES * FEATURES
    hessian = hessian.view(TASKS, size, TASKS, size)
    for a in range(TASKS):
        for b in range(TASKS):
            if a != b:
                assert hessian[a, :, b].count_nonzero() == 0
        eigenvalues = torch.linalg.eigvalsh(hessian[a, :, a])
        slack = size * EPS * eigenvalues.max()
        assert eigenvalues.min() >= l2 - slack
        # The softmax doesn't see a score added to all classes: l2 itself is attained there, and
        # would be 0, a singular Hessian, without the regulariser.
        assert eigenvalues.min() <= l2 + slack


def test_constant_makes_the_last_weight_a_bias() -> None:
    theta, phi, _ = problem(3)
    bias = phi[..., -1]
    features = theta[..., :-1]
    found = scores(phi, with_constant(features))
    expected = features @ phi[..., :-1].mT + bias[:, None]
    assert (found - expected).abs().max() <= 2 * FEATURES * EPS * (
        features.abs() @ phi[..., :-1].abs().mT
    ).max()


@pytest.mark.parametrize("l2", [0.0, -1.0, math.nan])
def test_no_regulariser_is_refused(l2: float) -> None:
    with pytest.raises(InputError, match=r"got l2=.*positive"):
        SoftmaxRegression(torch.zeros(1, 2, dtype=torch.long), l2)
