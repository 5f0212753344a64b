"""The lower level of the learner: a linear softmax classifier on features, for all tasks at once.

Shapes: T tasks, n images of one task, S of them support, D features (with the constant), C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metalearn.errors import ConfigError


def with_constant(features: Float[Tensor, "*T n d"]) -> Float[Tensor, "*T n D"]:
    """The features with a 1 appended: its weights are the head's biases.

    The biases are thereby regularised like every other weight, which keeps the lower objective
    strongly convex in all of phi (adding a constant to all biases changes no probability).
    """
    return torch.cat((features, features.new_ones(*features.shape[:-1], 1)), -1)


def scores(
    phi: Float[Tensor, "*T C D"], features: Float[Tensor, "*T n D"]
) -> Float[Tensor, "*T n C"]:
    """The head's scores (logits) of each image for each class."""
    return features @ phi.mT


def cross_entropy(
    logits: Float[Tensor, "*T n C"], labels: Int[Tensor, "*T n"]
) -> Float[Tensor, "*T"]:
    """Mean over each task's images of -log of the true class's probability."""
    # The subtraction reaches its two terms by two short products; nll_loss would scatter.
    true = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - true).mean(-1)


@dataclass(frozen=True, slots=True)
class SoftmaxHead:
    """The lower objective g(theta, phi), theta = support features, phi = head weights.

    g = mean cross-entropy + l2/2 |phi|^2, l2-strongly convex in phi. Without the second term
    (l2 = 0) its Hessian is singular and the hypergradient has no meaning, so that is refused.
    Heads are stored as (classes, features): products with them then read memory in order.

    Attributes:
        labels: the class of each support image.
        l2: the regulariser's factor, positive.

    Raises:
        ConfigError: l2 is not positive.
    """

    labels: Int[Tensor, "*T S"]
    l2: float

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise ConfigError(
                f"l2 was given as {self.l2}: it must be positive, or the head's Hessian is "
                "singular and its hypergradient undefined."
            )

    def __call__(
        self, theta: Float[Tensor, "*T S D"], phi: Float[Tensor, "*T C D"]
    ) -> Float[Tensor, "*T"]:
        """One value for each task."""
        fit = cross_entropy(scores(phi, theta), self.labels)
        return fit + self.l2 / 2 * phi.square().sum((-2, -1))
