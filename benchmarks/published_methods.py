"""Upper steps the way published scripts take them, written from their descriptions.

Common to all: one task at a time in Python; plain blocks of convolution, batch normalisation by
the batch that passes (support and query apart), ReLU and pooling; `torch.autograd.grad` with
`create_graph=True` for the lower steps. They differ in what passes through the backbone:

- `maml`: learn2learn's script. All weights are adapted, through all K steps' graphs.
- `anil`, `itd_bio`: the scripts of Yang, Ma and Yu (2025). Features are recomputed at each lower
  step, with their graph, through which the upper loss is differentiated.
- `anil_once`: learn2learn's script. Features are computed once for a task.
- `algorithm_1`: the script of Yang, Ma and Yu (2025). Features are recomputed at each lower step
  without a graph, then once more with it; gradients, N conjugate-gradient steps and the cross
  product all go through that graph, which is kept until the end.

Departures, so that all solve the same problem: heads start where this library's do (at zero, or at
the learned start), the regulariser is l2/2 |head|^2 (their norm is not squared, and Algorithm 1's
script computes but does not use it), and the head's constant is a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn.backbones import Conv4
from metalearn.methods import Model
from metalearn.methods.model import HEAD
from metalearn.tasks.episodes import Episodes

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Task:
    """One task's images and labels."""

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A script's upper step: adds the gradient of the mean query loss to `grad`.

    Attributes:
        task: adds one task's gradient, times `share`.
        steps: K.
        step_size: step size of the lower steps.
        l2: the heads' regulariser.
        adjoint_steps: N, where there is an adjoint system.
    """

    task: Callable[[Published, Model, Task, float], None]
    steps: int
    step_size: float
    l2: float = 0.0
    adjoint_steps: int = 0

    def __call__(self, model: Model, episodes: Episodes) -> None:
        """One upper step without the optimiser."""
        model.zero_grad(set_to_none=True)
        for task in tasks(episodes):
            self.task(self, model, task, 1 / len(episodes.images))

    def lower(self, head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """The lower objective of one task."""
        return F.cross_entropy(features @ head.T, labels) + self.l2 / 2 * head.square().sum()


def tasks(episodes: Episodes) -> Iterator[Task]:
    """One at a time, each with images of its own, as a loader gives them."""
    shot = episodes.support_labels.shape[1]
    for index in range(len(episodes.images)):
        yield Task(
            support=episodes.images[index, :shot].contiguous(),
            support_labels=episodes.support_labels[index],
            query=episodes.images[index, shot:].contiguous(),
            query_labels=episodes.query_labels[index],
        )


def features(weights: Weights, images: Tensor) -> Tensor:
    """A Conv4's features of one batch, with the constant, by the blocks of learn2learn.

    There the ReLU runs before the pooling; the values are the same.
    """
    x = images
    for block in range(4):
        x = F.conv2d(x, weights[f"backbone.convs.{block}.weight"], padding=1)
        scale, shift = (weights[f"backbone.norms.{block}.{name}"] for name in ("weight", "bias"))
        x = F.batch_norm(x, None, None, scale, shift, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return torch.cat((x.flatten(1), x.new_ones(len(x), 1)), 1)


def weights_of(model: Model) -> Weights:
    """All parameters by name."""
    assert isinstance(model.backbone, Conv4)
    return dict(model.named_parameters())


def maml(method: Published, model: Model, task: Task, share: float) -> None:
    """learn2learn's MAML."""
    fast = weights_of(model)
    head = f"own.{HEAD}"
    for _ in range(method.steps):
        logits = features(fast, task.support) @ fast[head].T
        loss = F.cross_entropy(logits, task.support_labels)
        slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
        fast = {
            name: value - method.step_size * slope
            for (name, value), slope in zip(fast.items(), slopes, strict=True)
        }
    logits = features(fast, task.query) @ fast[head].T
    torch.autograd.backward(share * F.cross_entropy(logits, task.query_labels))


def _zero_head(features: Tensor, labels: Tensor) -> Tensor:
    return features.new_zeros(int(labels.max()) + 1, features.shape[1], requires_grad=True)


def _unrolled(method: Published, model: Model, task: Task, share: float, *, once: bool) -> None:
    weights = weights_of(model)
    known = features(weights, task.support) if once else None
    head: Tensor | None = model.own.get(HEAD)
    for _ in range(method.steps):
        support = features(weights, task.support) if known is None else known
        if head is None:
            head = _zero_head(support, task.support_labels)
        loss = method.lower(head, support, task.support_labels)
        (slope,) = torch.autograd.grad(loss, head, create_graph=True)
        head = head - method.step_size * slope
    assert head is not None  # K >= 1
    query = features(weights, task.query)
    torch.autograd.backward(share * F.cross_entropy(query @ head.T, task.query_labels))


def itd_bio(method: Published, model: Model, task: Task, share: float) -> None:
    """ITD-BiO of Yang, Ma and Yu's scripts, and ANIL where the model learns a start."""
    _unrolled(method, model, task, share, once=False)


anil = itd_bio


def anil_once(method: Published, model: Model, task: Task, share: float) -> None:
    """learn2learn's ANIL."""
    _unrolled(method, model, task, share, once=True)


def algorithm_1(method: Published, model: Model, task: Task, share: float) -> None:
    """Yang, Ma and Yu's script of their Algorithm 1."""
    weights = weights_of(model)
    fixed = {name: value.detach() for name, value in weights.items()}
    head: Tensor | None = None
    for _ in range(method.steps):
        support = features(fixed, task.support)
        if head is None:
            head = _zero_head(support, task.support_labels)
        (slope,) = torch.autograd.grad(method.lower(head, support, task.support_labels), head)
        head = (head - method.step_size * slope).detach().requires_grad_()
    assert head is not None  # K >= 1

    g = method.lower(head, features(weights, task.support), task.support_labels)
    f = F.cross_entropy(features(weights, task.query) @ head.T, task.query_labels)
    upper = list(weights.values())
    (cotangent,) = torch.autograd.grad(f, head, retain_graph=True)
    direct = torch.autograd.grad(f, upper, retain_graph=True)
    (gradient,) = torch.autograd.grad(g, head, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(gradient, head, vector, retain_graph=True)
        return image

    v = conjugate_gradients(product, cotangent, method.adjoint_steps)
    cross = torch.autograd.grad(gradient, upper, v)
    for parameter, left, right in zip(upper, direct, cross, strict=True):
        hypergradient = share * (left - right)
        parameter.grad = hypergradient if parameter.grad is None else parameter.grad + hypergradient


def conjugate_gradients(product: Callable[[Tensor], Tensor], rhs: Tensor, steps: int) -> Tensor:
    """N steps from zero, one task's; the least residual's part is rounding, where it stops."""
    x, residual = torch.zeros_like(rhs), rhs.clone()
    direction, square = residual.clone(), residual.square().sum()
    floor = torch.finfo(rhs.dtype).eps ** 2 * square
    for _ in range(steps):
        image = product(direction)
        length = square / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        square, before = residual.square().sum(), square
        if square <= floor:  # a step more is 0/0
            break
        direction = residual + square / before * direction
    return x
