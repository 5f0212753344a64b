"""Accuracy over many episodes, with its interval; and a recorded accuracy reproduced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.calibration import Calibration, calibration
from metalearn.episodes import Sampler
from metalearn.methods import Method, Model

INTERVAL: Final = "mean +- 1.96 s / sqrt(n), s the standard deviation of the n episodes' accuracies"

# Episodes answered together. Part of what "exactly" means: another number may round differently.
_TOGETHER: Final = 20


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracies of n episodes, as parts of one.

    Attributes:
        episodes: one value for each episode, in float64.
        calibration: of all answers.
    """

    episodes: Float[Tensor, " n"]
    calibration: Calibration

    @property
    def mean(self) -> float:
        """Mean over the episodes."""
        return self.episodes.mean().item()

    @property
    def interval(self) -> float:
        """Half the 95 % interval; see `INTERVAL`."""
        spread: float = self.episodes.std().item()
        return 1.96 * spread / math.sqrt(len(self.episodes))

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.interval:.2f} %"


def accuracy(method: Method, model: Model, sampler: Sampler, episodes: int) -> Accuracy:
    """Answer the sampler's first `episodes` episodes, the model in its testing mode.

    Raises:
        hypergrad.NotFiniteError: the features or the head of an episode are not finite.
    """
    parts, answers, labels = [], [], []
    training = model.training
    model.eval()
    for start in range(0, episodes, _TOGETHER):
        batch = sampler.sample(start, min(_TOGETHER, episodes - start))
        logits = method.predict(model, batch)
        parts.append((logits.argmax(-1) == batch.query_labels).double().mean(-1))
        # to the host: sums of a GPU come in any order, and the record is compared exactly
        answers.append(logits.flatten(0, 1).cpu())
        labels.append(batch.query_labels.flatten().cpu())
    model.train(training)
    found = calibration(torch.cat(answers), torch.cat(labels))
    return Accuracy(episodes=torch.cat(parts).cpu(), calibration=found)
