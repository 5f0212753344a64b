"""The linear softmax classifier on features, for all tasks at once.

Shapes: T tasks, n images of one task, S of them support, D features (with the constant), C classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


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


def one_hot(labels: Int[Tensor, "*T n"], classes: int, *, like: Tensor) -> Float[Tensor, "*T n C"]:
    """1 at each image's class and 0 elsewhere, of the dtype and on the device of `like`."""
    zeros = like.new_zeros(*labels.shape, classes)
    return zeros.scatter_(-1, labels.unsqueeze(-1), 1.0)


def cross_entropy(
    logits: Float[Tensor, "*T n C"], labels: Int[Tensor, "*T n"]
) -> Float[Tensor, "*T"]:
    """Mean over each task's images of -log of the true class's probability."""
    # The subtraction reaches its two terms by two short products; nll_loss would scatter.
    true = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - true).mean(-1)
