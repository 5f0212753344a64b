"""Methods whose lower level is a head on features: one pass of the backbone in an upper step.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, C channels, H, W pixels, D
features (with the constant 1), c classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

import hypergrad
from hypergrad import LinearSolver, Objective, Unrolled
from hypergrad.objectives import RidgeRegression, SoftmaxRegression
from metalearn.errors import ConfigError, UnsolvedWarning
from metalearn.methods.head import cross_entropy, one_hot, scores
from metalearn.methods.lower import Lower, direct
from metalearn.methods.method import Adapted, Watch
from metalearn.methods.model import HEAD, Model
from metalearn.tasks.episodes import Episodes

_SCALE: Final = "log_scale"
_SHARPNESS: Final = "sharpness"


def parts(
    model: Model, episodes: Episodes
) -> tuple[Float[Tensor, "T S D"], Float[Tensor, "T Q D"]]:
    """Features of support and query."""
    sizes = [episodes.support_labels.shape[1], episodes.query_labels.shape[1]]
    support, query = model.features(episodes.images, sizes[0]).split(sizes, dim=1)
    return support, query


def initial_head(
    features: int, way: int, generator: torch.Generator | None
) -> Float[Tensor, "c D"]:
    """A linear layer's usual start: weights and biases uniform within 1/sqrt(features)."""
    bound = 1 / math.sqrt(features)
    return torch.empty(way, features + 1).uniform_(-bound, bound, generator=generator)


def shared_start(model: Model, *, tasks: int, way: int) -> Float[Tensor, "T c D"]:
    """The initial head, one for each task.

    Raises:
        ConfigError: the start was made for another number of classes.
    """
    head: Tensor = model.own[HEAD]
    if len(head) != way:
        raise ConfigError(
            f"the initial head has {len(head)} classes, but the tasks have {way}: a "
            "learned initial head can only be used with tasks of one way; train and test with it."
        )
    return head.expand(tasks, *head.shape)


def _support(model: Model, images: Float[Tensor, "S C H W"]) -> Float[Tensor, "1 S D"]:
    """Features of the support of one task."""
    return model.features(images[None], len(images))


@torch.no_grad()
def _answer_by_head(
    method: object,
    model: Model,
    values: Mapping[str, Tensor],
    images: Float[Tensor, "Q C H W"],
) -> Float[Tensor, "Q c"]:
    """The scores of a linear head: every method of this file adapts one."""
    return scores(values[HEAD], model.features(images[None], len(images))[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearHeads:
    """Softmax regression on the features: memory-reduced meta-learning, ITD-BiO and ANIL.

    The adjoint decides which: `Implicit` is memory-reduced (Yang, Ma and Yu 2025, Algorithm
    1), `Unrolled` is ITD-BiO (Ji, Yang and Liang 2021); with `learn_start` beside, so that heads
    start at an upper variable, and `l2 = 0` it is ANIL (Raghu et al. 2020).

    Attributes:
        lower: finds the heads and differentiates them.
        l2: the heads' regulariser, not negative; positive for implicit adjoints.
        learn_start: learn the heads' start (with `Unrolled` only) instead of starting at 0.
        wide_heads: find and differentiate the heads in float64. The features stay as they are: the
            heads' work is small beside the backbone's, and float32 does not reach every tolerance.

    Raises:
        ConfigError: a negative l2, or a start whose derivative the adjoint does not know.
    """

    lower: Lower
    l2: float
    learn_start: bool = False
    wide_heads: bool = False

    def __post_init__(self) -> None:
        if not (self.l2 >= 0 and math.isfinite(self.l2)):
            raise ConfigError(f"l2 was given as {self.l2}: it must be finite and not negative.")
        if self.learn_start and not isinstance(self.lower.adjoint, Unrolled):
            raise ConfigError(
                f"learn_start was given with {self.lower.adjoint}, which does not differentiate "
                "the start: use Unrolled(), or leave learn_start out."
            )

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The heads' start, if it is learned."""
        return {HEAD: initial_head(features, way, generator)} if self.learn_start else {}

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """Mean cross entropy of the queries."""
        support, query = self._parts(model, episodes)
        start = self._start(model, support, episodes.way)
        by, adjoint = self.lower.by, self.lower.adjoint
        objective = self._objective(episodes.support_labels)
        head = hypergrad.argmin(objective, support, start, by=by, adjoint=adjoint, watch=watch)
        logits = scores(head, query)
        return cross_entropy(logits, episodes.query_labels).mean()

    @torch.no_grad()
    def predict(self, model: Model, episodes: Episodes) -> Float[Tensor, "T Q c"]:
        """The heads' scores."""
        support, query = self._parts(model, episodes)
        start = self._start(model, support, episodes.way)
        objective = self._objective(episodes.support_labels)
        found = self.lower.testing.minimise(objective, support, start)
        if found.converged is not None and not bool(found.converged.all()):
            warnings.warn(
                f"{int((~found.converged).sum())} of {len(support)} heads ended above the lower "
                "solver's tolerance: their answers are those of heads that are not minimisers. "
                "Regularise more (--l2).",
                UnsolvedWarning,
                stacklevel=2,
            )
        return scores(found.phi, query)

    @torch.no_grad()
    def adapt(
        self,
        model: Model,
        images: Float[Tensor, "S C H W"],
        labels: Int[Tensor, " S"],
        *,
        way: int,
    ) -> Adapted:
        """Fit the head."""
        features = _support(model, images)
        support = features.double() if self.wide_heads else features
        start = self._start(model, support, way)
        found = self.lower.testing.minimise(self._objective(labels[None]), support, start)
        return Adapted(
            values={HEAD: found.phi[0].to(features.dtype)},
            converged=None if found.converged is None else bool(found.converged.all()),
            stationarity=found.stationarity.item(),
        )

    answer = _answer_by_head

    def _parts(
        self, model: Model, episodes: Episodes
    ) -> tuple[Float[Tensor, "T S D"], Float[Tensor, "T Q D"]]:
        """Features of support and query, in the heads' precision."""
        support, query = parts(model, episodes)
        return (support.double(), query.double()) if self.wide_heads else (support, query)

    def _start(self, model: Model, support: Tensor, way: int) -> Float[Tensor, "T c D"]:
        if self.learn_start:
            start = shared_start(model, tasks=len(support), way=way).to(support.dtype)
            # a view of a parameter requires grad even where no graph is kept
            return start if torch.is_grad_enabled() else start.detach()
        return support.new_zeros(len(support), way, support.shape[2])

    def _objective(self, labels: Int[Tensor, "T S"]) -> Objective[Tensor, Tensor]:
        if self.l2 > 0:
            return SoftmaxRegression(labels, self.l2)
        return lambda theta, phi: cross_entropy(scores(phi, theta), labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeHeads:
    """Ridge regression on one-hot labels, solved in closed form: R2-D2 (Bertinetto et al. 2019).

    The regulariser is learned by way of a scale e^s of the features, which makes it
    `l2 e^(-2 s)`; and so is the factor between regression and logits. (Their shift of the logits
    is left out: it is the same for all classes.)

    Attributes:
        l2: the regulariser at the start, of the mean over the support (there lambda).
        sharpness: the factor at the start (there alpha).
        solver: solves the adjoint system; by default as in `metalearn.methods.lower.direct`.

    Raises:
        ConfigError: a number that is not positive.
    """

    l2: float
    sharpness: float
    solver: LinearSolver | None = direct().solver

    def __post_init__(self) -> None:
        for name, value in (("l2", self.l2), ("sharpness", self.sharpness)):
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} was given as {value}: it must be positive and finite.")

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Scale of the features (its logarithm) and factor of the scores."""
        return {_SCALE: torch.zeros(()), _SHARPNESS: torch.tensor(self.sharpness)}

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """Mean cross entropy of the queries."""
        return cross_entropy(self._answer(model, episodes, watch), episodes.query_labels).mean()

    @torch.no_grad()
    def predict(self, model: Model, episodes: Episodes) -> Float[Tensor, "T Q c"]:
        """The heads' scores."""
        return self._answer(model, episodes, hypergrad.warn)

    @torch.no_grad()
    def adapt(
        self,
        model: Model,
        images: Float[Tensor, "S C H W"],
        labels: Int[Tensor, " S"],
        *,
        way: int,
    ) -> Adapted:
        """Fit the head; the factors of features and scores become part of it."""
        scale = model.own[_SCALE].exp()
        support = scale * _support(model, images)
        objective = RidgeRegression(one_hot(labels[None], way, like=support), self.l2)
        head = objective.minimiser(support)[0]
        return Adapted(values={HEAD: model.own[_SHARPNESS] * scale * head})

    answer = _answer_by_head

    def _answer(self, model: Model, episodes: Episodes, watch: Watch) -> Tensor:
        scale = model.own[_SCALE].exp()
        support, query = (scale * part for part in parts(model, episodes))
        targets = one_hot(episodes.support_labels, episodes.way, like=support)
        objective = RidgeRegression(targets, self.l2)
        head = hypergrad.attach(
            objective,
            support,
            objective.minimiser(support.detach()),
            solver=self.solver,
            watch=watch,
        )
        answer: Tensor = model.own[_SHARPNESS] * scores(head, query)
        return answer


@dataclass(frozen=True, slots=True)
class ProtoNet:
    """Nearest class mean (Snell, Swersky and Zemel 2017): the reference without a lower level.

    Scores are -|x - mean|^2 + |x|^2 = 2 x'mean - |mean|^2 (their equation 8): the term that is
    left out is the same for all classes.
    """

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """None."""
        return {}

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """Mean cross entropy of the queries."""
        return cross_entropy(self._answer(model, episodes), episodes.query_labels).mean()

    @torch.no_grad()
    def predict(self, model: Model, episodes: Episodes) -> Float[Tensor, "T Q c"]:
        """Scores by distance."""
        return self._answer(model, episodes)

    @torch.no_grad()
    def adapt(
        self,
        model: Model,
        images: Float[Tensor, "S C H W"],
        labels: Int[Tensor, " S"],
        *,
        way: int,
    ) -> Adapted:
        """Class means, as the linear head that scores by them: 2 x'mean - |mean|^2.

        The constant feature's weight takes in the second term.
        """
        means = _means(_support(model, images), labels[None], way)[0]
        head = 2 * means
        head[:, -1] -= means.square().sum(-1)
        return Adapted(values={HEAD: head})

    answer = _answer_by_head

    def _answer(self, model: Model, episodes: Episodes) -> Tensor:
        support, query = parts(model, episodes)
        means = _means(support, episodes.support_labels, episodes.way)
        return 2 * scores(means, query) - means.square().sum(-1).unsqueeze(1)


def _means(
    support: Float[Tensor, "T S D"], labels: Int[Tensor, "T S"], way: int
) -> Float[Tensor, "T c D"]:
    members = one_hot(labels, way, like=support)
    return members.mT @ support / members.sum(1).unsqueeze(-1)
