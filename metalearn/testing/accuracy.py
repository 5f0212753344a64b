"""Accuracy over many episodes, with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.distributed import ALONE, World
from metalearn.errors import NotFiniteError
from metalearn.methods import Method, Model
from metalearn.tasks.episodes import Sampler
from metalearn.testing.calibration import Calibration, calibration

INTERVAL: Final = "mean +- 1.96 s / sqrt(n), s the standard deviation of the n episodes' accuracies"

# Episodes answered together. A recorded accuracy depends on it: another number may round otherwise.
TOGETHER: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class Accuracy:
    """Accuracies of n episodes, as parts of one.

    Attributes:
        episodes: Accuracy of each episode, in float64.
        calibration: Calibration of all answers.
    """

    episodes: Float[Tensor, " n"]
    calibration: Calibration

    @property
    def mean(self) -> float:
        """Mean over the episodes."""
        return self.episodes.mean().item()

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval; see `INTERVAL`."""
        spread: float = self.episodes.std().item()
        return 1.96 * spread / math.sqrt(len(self.episodes))

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.interval:.2f} %"


def accuracy(
    method: Method,
    model: Model,
    sampler: Sampler,
    episodes: int,
    *,
    tasks_per_chunk: int | None = None,
    between: Callable[[], None] = lambda: None,
    world: World = ALONE,
) -> Accuracy:
    """Answer the sampler's first `episodes` episodes, the model in its testing mode.

    Args:
        method: Few-shot method that answers.
        model: Trained model.
        sampler: Sampler of the episodes.
        episodes: Number of episodes.
        tasks_per_chunk: Largest number of episodes at once; None: 20.
        between: Function called before each chunk, on all ranks; it may raise to stop.
        world: Ranks that share the chunks. Each rank gets the accuracy of all episodes, the same as
            one rank alone would.

    Raises:
        NotFiniteError: an answer is NaN or infinite.
        RankError: on all of several ranks, what one of them would have raised.
        hypergrad.NotFiniteError: the features or the head of an episode are not finite.
    """
    together = min(TOGETHER, tasks_per_chunk or TOGETHER)
    queries = sampler.way * sampler.query
    # on the host: sums of a GPU come in any order, and the record is compared exactly
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    answers = torch.zeros(episodes, queries, sampler.way, dtype=kind)
    # 0 where an episode has no such query, else its class plus 1
    labels = torch.zeros(episodes, queries, dtype=torch.long)
    training = model.training
    model.eval()
    starts = range(0, episodes, together)
    for turn in range(0, len(starts), world.size):
        between()
        with world.together(f"episodes from {starts[turn]} of the {sampler.pool.split} split"):
            for start in starts[turn : turn + world.size][world.rank : world.rank + 1]:
                batch = sampler.sample(start, min(together, episodes - start))
                logits = method.predict(model, batch)
                if not bool(logits.isfinite().all()):
                    raise NotFiniteError(
                        f"answers to episodes {start} to {start + len(logits) - 1} of the "
                        f"{sampler.pool.split} split are NaN or infinite: lower the learning rate."
                    )
                here = slice(start, start + len(logits))
                answers[here, :, batch.way :] = -math.inf  # classes that an episode has not
                answers[here, : logits.shape[1], : batch.way] = logits.cpu()
                labels[here, : logits.shape[1]] = batch.query_labels.cpu() + 1
    model.train(training)
    answers = world.total(answers, f"the answers of the {sampler.pool.split} split")
    labels = world.total(labels, f"the labels of the {sampler.pool.split} split")
    asked = labels > 0
    right = ((answers.argmax(-1) + 1 == labels) & asked).sum(-1).double() / asked.sum(-1)
    found = calibration(answers[asked], labels[asked] - 1)
    return Accuracy(episodes=right, calibration=found)
