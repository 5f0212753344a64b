"""Calibration: how often answers are right, compared with their stated probability.

Shapes: n answers, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Stated probabilities compared with the share of right answers.

    Attributes:
        error: Expected calibration error (Guo et al. 2017, equation 3): mean over all answers of
            |accuracy - confidence| of their bin. There are `BINS` bins of equal width.
        log_loss: Mean of -log of the probability given to the true class, in nats.
        counts: Number of answers in each bin. The bin is chosen by the probability of the class
            that was named.
        accuracy: Share of right answers in each bin; 0 for an empty bin.
        confidence: Mean probability in each bin; 0 for an empty bin.
    """

    error: float
    log_loss: float
    counts: list[int]
    accuracy: list[float]
    confidence: list[float]


def calibration(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Calibration:
    """Calibration of answers whose probabilities are the softmax of these scores."""
    confidence, named = logits.double().softmax(-1).max(-1)
    right: Bool[Tensor, " n"] = named == labels
    bins = (confidence * BINS).long().clamp_(max=BINS - 1)
    counts = torch.bincount(bins, minlength=BINS)

    def mean(values: Float[Tensor, " n"]) -> Float[Tensor, " bins"]:
        sums = torch.zeros(BINS, dtype=torch.float64, device=values.device)
        return sums.index_add_(0, bins, values) / counts.clamp(min=1)

    accuracy, stated = mean(right.double()), mean(confidence)
    error = ((accuracy - stated).abs() * counts).sum() / len(labels)
    return Calibration(
        error=error.item(),
        log_loss=F.cross_entropy(logits.double(), labels).item(),
        counts=counts.tolist(),
        accuracy=accuracy.tolist(),
        confidence=stated.tolist(),
    )
