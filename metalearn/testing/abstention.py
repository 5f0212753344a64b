"""A threshold below which no answer is given, so that those given are as often right as asked.

Shapes: n answers, T tasks, Q queries of one task, c classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metalearn.errors import EpisodeError
from metalearn.tasks.episodes import Episodes, Sampler
from metalearn.testing.accuracy import TOGETHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Threshold on the probability of the class that is named, and what it did on other episodes.

    Attributes:
        value: the threshold.
        wanted: share of right answers that was asked for.
        accuracy: share of right answers among those given, on episodes it was not found on.
        coverage: share of questions that were answered there.
        answers: number of questions there.
    """

    value: float
    wanted: float
    accuracy: float
    coverage: float
    answers: int

    def __str__(self) -> str:
        return (
            f"no answer below probability {self.value:.3f}: then {100 * self.coverage:.0f} % of "
            f"{self.answers} validation questions get an answer, and {100 * self.accuracy:.1f} % "
            f"of those are right ({100 * self.wanted:g} % were asked for)"
        )


def threshold(
    confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"], wanted: float
) -> float | None:
    """The lowest threshold at which the answers given are right as often as wanted.

    Args:
        confidence: probability of the class that is named.
        right: True for right answers.
        wanted: share of right answers.

    Returns:
        The threshold, or None if there is none.
    """
    order = confidence.argsort(descending=True, stable=True)
    falling = confidence[order]
    share = right[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    # answers of one confidence are given together or not at all
    last = torch.ones_like(right)
    last[:-1] = falling[:-1] > falling[1:]
    enough = ((share >= wanted) & last).nonzero()
    return falling[enough[-1]].item() if len(enough) else None


def calibrated(
    predict: Callable[[Episodes], Float[Tensor, "T Q c"]],
    sampler: Sampler,
    *,
    wanted: float,
    episodes: int,
) -> Threshold:
    """Find a threshold on every other episode, and judge it on the rest.

    Args:
        predict: gives the scores of the queries of episodes.
        sampler: draws the episodes.
        wanted: share of right answers.
        episodes: number of episodes, at least 2.

    Raises:
        EpisodeError: no threshold makes so many answers right.
        hypergrad.NotFiniteError: the lower level is not finite.
    """
    confidence, right = [], []
    for start in range(0, episodes, TOGETHER):
        batch = sampler.sample(start, min(TOGETHER, episodes - start))
        found, named = predict(batch).double().softmax(-1).cpu().max(-1)
        confidence.append(found)
        right.append(named == batch.query_labels.cpu())
    sure, true = torch.cat(confidence), torch.cat(right)
    value = threshold(sure[::2].flatten(), true[::2].flatten(), wanted)
    if value is None:
        raise EpisodeError(
            f"{100 * wanted:g} % of right answers can't be reached by abstaining: of all answers "
            f"{100 * true.double().mean():.1f} % are right on the validation episodes, and the "
            "most probable are not right often enough. Ask for less, or give more labelled "
            "pictures of each class."
        )
    others, given = true[1::2], sure[1::2] >= value
    return Threshold(
        value=value,
        wanted=wanted,
        accuracy=(others & given).sum().item() / max(1, int(given.sum())),
        coverage=given.double().mean().item(),
        answers=given.numel(),
    )
