"""A tiny model, episodes of noise, and each method's loss written out without hypergrad.

The references go through one task at a time, in Python, with `torch.autograd.grad` and
`functional_call`: no batching over tasks, no argmin, no adjoint.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hypergrad import Certificate
from metalearn.backbones import Backbone
from metalearn.methods import Method, Model
from metalearn.methods.method import Watch
from metalearn.tasks.episodes import Episodes
from metalearn.training.step import accumulate

TASKS, WAY, SHOT, QUERY, SIDE, FEATURES = 3, 3, 2, 2, 6, 4
SUPPORT = WAY * SHOT
Weights = dict[str, Tensor]


class Tiny(nn.Module):
    """One convolution, smooth, with statistics over each part of a task: a network to be exact on.

    Smooth, since at a kink of ReLU or pooling two orders of summation may take different sides.
    """

    features = FEATURES
    recompute = False

    def __init__(self) -> None:
        super().__init__()
        # No bias: the normalisation takes it away, and Adam would step along its rounding errors.
        self.conv = nn.Conv2d(1, FEATURES, 3, stride=2, bias=False)
        generator = torch.Generator().manual_seed(0)  # not torch's own, which tests share
        nn.init.normal_(self.conv.weight, std=1 / 3, generator=generator)
        self.scale = nn.Parameter(torch.ones(FEATURES))

    def forward(self, images: Tensor, support: int) -> Tensor:
        parts = images.split([s for s in (support, images.shape[1] - support) if s], dim=1)
        return torch.cat([self.part(part) for part in parts], 1)

    def part(self, images: Tensor) -> Tensor:
        x = self.conv(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        variance, mean = torch.var_mean(x, (1, 3, 4), keepdim=True)
        return torch.tanh((x - mean) / (variance + 0.1).sqrt()).mean((3, 4)) * self.scale


def model(method: Method, backbone: Backbone | None = None, *, seed: int = 0) -> Model:
    generator = torch.Generator().manual_seed(seed)
    body = Tiny() if backbone is None else backbone
    own = method.variables(features=body.features, way=WAY, generator=generator)
    subject = Model(body, own).double()
    with torch.no_grad():  # so that no derivative is small by an accident of the start
        for parameter in subject.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise, alpha=0.3)
    return subject


def episodes(*, tasks: int = TASKS, side: int = SIDE, seed: int = 1) -> Episodes:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(WAY)
    shape = (tasks, WAY * (SHOT + QUERY), 1, side, side)
    return Episodes(
        images=torch.randn(shape, generator=generator, dtype=torch.float64),
        support_labels=labels.repeat(SHOT).repeat(tasks, 1),
        query_labels=labels.repeat(QUERY).repeat(tasks, 1),
        way=WAY,
        shot=SHOT,
        query=QUERY,
    )


def ignore(certificate: Certificate) -> None:
    """Take no notice."""


def accumulate_batch(
    method: Method,
    subject: Model,
    batch: Episodes,
    *,
    size: int | None = None,
    watch: Watch = ignore,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """`accumulate` for tasks that are drawn already, `size` of them at a time."""
    chunks = batch.split(size or batch.tasks)
    return accumulate(method, subject, chunks, tasks=batch.tasks, watch=watch, scaler=scaler)


def gradient(loss: Tensor, subject: Model) -> Tensor:
    parameters = list(subject.parameters())
    parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def found(method: Method, subject: Model, batch: Episodes) -> Tensor:
    """The method's own gradient of its loss."""
    return gradient(method.loss(subject, batch, watch=ignore), subject)


Task = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images and labels, query images and labels, of one task."""


def each(batch: Episodes) -> list[Task]:
    return [
        (images[:SUPPORT], support, images[SUPPORT:], query)
        for images, support, query in zip(
            batch.images, batch.support_labels, batch.query_labels, strict=True
        )
    ]


def features(subject: Model, task: Task) -> tuple[Tensor, Tensor]:
    """Of support and query of one task, with the constant."""
    body = subject.backbone
    assert isinstance(body, Tiny)
    parts = (body.part(images[None])[0] for images in (task[0], task[2]))
    support, query = (torch.cat((x, x.new_ones(len(x), 1)), 1) for x in parts)
    return support, query


def network(subject: Model, weights: Weights, images: Tensor) -> Tensor:
    """Scores of one task's images, all normalised together."""
    answer: Tensor = functional_call(subject, weights, (images,))
    return answer


def descend(
    loss: Callable[[Weights], Tensor], start: Weights, *, steps: int, size: float, graph: bool
) -> Weights:
    """Plain gradient descent, with or without the graph of its steps."""
    weights = dict(start)
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(weights), list(weights.values()), create_graph=graph)
        weights = {
            name: value - size * slope
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }
    return weights


def support_loss(subject: Model, task: Task) -> Callable[[Weights], Tensor]:
    return lambda weights: F.cross_entropy(network(subject, weights, task[0]), task[1])


def query_loss(subject: Model, task: Task, weights: Weights) -> Tensor:
    return F.cross_entropy(network(subject, weights, task[2]), task[3])


def close(found: Tensor, expected: Tensor, *, condition: float = 1.0) -> bool:
    """Whether they agree to 1e-10 of the norm, times how much the problem amplifies rounding.

    Both evaluate some 10^4 operations of values of size 1 in float64: 10^4 eps = 2e-12, and the
    steps of a lower level repeat them fewer than 10 times. Wrong derivatives differ by percents.
    """
    return bool((found - expected).norm() <= 1e-10 * condition * expected.norm())
