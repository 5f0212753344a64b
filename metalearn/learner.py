"""The paper's learner: the backbone is the upper variable, a head for each task the lower one.

One upper step runs the backbone forward once and backward once, whatever the lower level costs:
the lower level only sees the features, and its minimiser is an ordinary value of them.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

import hypergrad
from hypergrad import CG, Adjoint, Certificate, GradientDescent, Implicit, LowerSolver, Newton
from hypergrad.objectives import SoftmaxRegression
from metalearn.backbones import Conv4
from metalearn.episodes import Episodes
from metalearn.errors import ConfigError
from metalearn.head import scores, with_constant

Preset: TypeAlias = Literal["paper", "exact"]
"""`paper`: K gradient steps and N CG steps as published. `exact`: both levels to round-off."""

PAPER_STEPS: Final = 20
PAPER_STEP_SIZE: Final = 0.05
PAPER_ADJOINT_STEPS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lower:
    """How the lower level is solved and differentiated.

    Attributes:
        by: finds the heads.
        adjoint: differentiates them.
    """

    by: LowerSolver
    adjoint: Adjoint


def paper(
    *,
    steps: int = PAPER_STEPS,
    step_size: float = PAPER_STEP_SIZE,
    adjoint_steps: int = PAPER_ADJOINT_STEPS,
) -> Lower:
    """Algorithm 1 with the published script's numbers: K = 20 steps of 0.05, N = 20 CG steps."""
    return Lower(
        by=GradientDescent(steps=steps, step_size=step_size),
        adjoint=Implicit(CG(rtol=0.0, max_steps=adjoint_steps)),
    )


def exact(*, rtol: float = 1e-5) -> Lower:
    """The minimiser by damped Newton and the adjoint by CG, each to `rtol`.

    A float32 residual sinks to at most eps * condition, eps = 1.2e-7. Here the condition is about
    |feature|^2 / (2 l2), some thousands, which allows for 1e-4 or more; but the right-hand sides
    have little part in the flat directions, and on trained backbones at l2 = 0.01 the floor was
    met at 2e-6. The default keeps a factor of five from there.

    Newton's directions need no more than one digit: a tenth per Newton step took the fewest
    products in all (104, against 137 for a hundredth and 191 for a thousandth).
    """
    return Lower(by=Newton(rtol=rtol, solver=CG(rtol=0.1)), adjoint=Implicit(CG(rtol=rtol)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """Backbone and lower level together.

    Attributes:
        backbone: the upper variable's module.
        l2: the head's regulariser, positive.
        lower: how heads are found and differentiated.

    Raises:
        ConfigError: a backbone with stored statistics, which tests in another mode than it trains.
    """

    backbone: Conv4
    l2: float
    lower: Lower

    def __post_init__(self) -> None:
        if self.backbone.normalisation == "stored":
            raise ConfigError(
                "normalisation stored was given to a Learner, which tests as it trains: use a "
                "metalearn.methods.Model, whose eval() makes the stored statistics count."
            )

    def answer(
        self, episodes: Episodes, *, watch: Callable[[Certificate], None] = hypergrad.warn
    ) -> Float[Tensor, "T Q C"]:
        """Scores of every query image, as a differentiable function of the backbone's weights.

        Args:
            episodes: T tasks.
            watch: is given the lower level's certificate when backward runs.

        Raises:
            hypergrad.NotFiniteError: a feature, or the lower level on them, is not finite.
        """
        return self.classify(episodes, self.features(episodes), watch=watch)

    def features(self, episodes: Episodes) -> Float[Tensor, "T n D"]:
        """What the lower level sees of the images: the backbone's features and the constant 1."""
        return with_constant(self.backbone(episodes.images, episodes.support_labels.shape[1]))

    def classify(
        self,
        episodes: Episodes,
        features: Float[Tensor, "T n D"],
        *,
        watch: Callable[[Certificate], None] = hypergrad.warn,
    ) -> Float[Tensor, "T Q C"]:
        """Fit each task's head to its support, and score its queries; see `answer`."""
        sizes = [episodes.support_labels.shape[1], episodes.query_labels.shape[1]]
        support, query = torch.split(features, sizes, dim=1)
        start = support.new_zeros(support.shape[0], episodes.way, support.shape[2])
        head = hypergrad.argmin(
            SoftmaxRegression(episodes.support_labels, self.l2),
            support,
            start,
            by=self.lower.by,
            adjoint=self.lower.adjoint,
            watch=watch,
        )
        return scores(head, query)
