"""Methods whose lower level is the whole network, a copy of all weights for each task.

The copies are one batch, in which tasks don't meet, so that the Hessian of the lower level is block
diagonal. Support and query run apart, each normalised by itself.

Shapes: T tasks, n images of one part, S of the support, Q of the query, C channels, H, W pixels, c
classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

import hypergrad
from hypergrad import Detached, LowerSolver, Unrolled
from hypergrad.objectives import Proximal, call, parameters
from metalearn.backbones import DropBlock, Norm, PerTask
from metalearn.errors import ConfigError
from metalearn.methods.head import cross_entropy
from metalearn.methods.heads import initial_head, shared_start
from metalearn.methods.lower import Lower
from metalearn.methods.method import Adapted, Watch
from metalearn.methods.model import HEAD, Model
from metalearn.tasks.episodes import Episodes

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Support or query of all tasks, and the network's loss on it."""

    model: Model
    images: Float[Tensor, "T n C H W"]
    labels: Int[Tensor, "T n"]

    def objective(self, theta: Tensor, phi: Weights) -> Float[Tensor, " T"]:
        """The lower level: theta is the images, all that it sees of the upper one."""
        return cross_entropy(_scores(self.model, phi, theta), self.labels)

    def logits(self, phi: Weights) -> Float[Tensor, "T n c"]:
        """The upper level's pass."""
        return _scores(self.model, phi, self.images)

    def loss(self, phi: Weights) -> Float[Tensor, ""]:
        """The upper level."""
        return cross_entropy(self.logits(phi), self.labels).mean()


def _scores(
    model: Model, phi: Weights, images: Float[Tensor, "T n C H W"]
) -> Float[Tensor, "T n c"]:
    """Each task's images by its own weights.

    On a CPU one task after another: all at once their convolutions are grouped, which takes more
    memory and no less time. On a GPU their small calls would count.
    """
    if images.device.type != "cpu":
        return call(model, phi, images)
    each = zip(*(value.unbind() for value in phi.values()), strict=True)
    alone = [dict(zip(phi, own, strict=True)) for own in each]
    return torch.stack([call(model, own, x) for own, x in zip(alone, images, strict=True)])


def _require_adaptable(model: Model, way: int) -> None:
    """Raise unless the whole network can be adapted to tasks of so many classes.

    Raises:
        ConfigError: the lower objective would be another one at each call, or not in float32.
    """
    shared_start(model, tasks=1, way=way)  # for its check
    if model.precision != "float32":
        raise ConfigError(
            f"precision {model.precision} was given to a method that adapts the whole network, "
            "whose lower level is solved in float32, and the network is that: use float32."
        )
    if model.streamed:
        raise ConfigError(
            "streamed was given to a method that adapts the whole network, which has no features "
            "to stream: leave it out; tasks_per_chunk bounds memory."
        )
    for part in model.modules():
        if (isinstance(part, Norm) and part.mode == "stored") or (
            isinstance(part, PerTask) and part.stores
        ):
            raise ConfigError(
                "normalisation stored was given to a method that adapts the whole network, at "
                "each of whose lower steps the statistics are others: use transductive or group."
            )
        if isinstance(part, DropBlock) and part.rate > 0:
            raise ConfigError(
                f"drop_rate {part.rate} was given to a method that adapts the whole network, "
                "whose lower objective must not draw random numbers: set it to 0."
            )
        if isinstance(part, _DropoutNd) and part.p > 0 and part.training:
            raise ConfigError(
                f"a backbone with {part} was given to a method that adapts the whole network, "
                "whose lower objective must not draw random numbers: give the backbone with that "
                "layer in eval(), or with p = 0."
            )
        if getattr(part, "recompute", False):
            raise ConfigError(
                "recompute was given to a method that adapts the whole network, whose weights of "
                "a task are no longer there in backward: leave it out; tasks_per_chunk bounds "
                "memory."
            )


def _split(model: Model, episodes: Episodes) -> tuple[_Part, _Part]:
    """Support and query.

    Raises:
        ConfigError: the network can't be adapted.
    """
    _require_adaptable(model, episodes.way)
    shot = episodes.support_labels.shape[1]
    return (
        _Part(model, episodes.images[:, :shot], episodes.support_labels),
        _Part(model, episodes.images[:, shot:], episodes.query_labels),
    )


def _start(model: Model, tasks: int) -> Weights:
    """The initial weights, live, one set for each task."""
    return {name: value.expand(tasks, *value.shape) for name, value in parameters(model).items()}


def _support(
    model: Model, images: Float[Tensor, "S C H W"], labels: Int[Tensor, " S"], way: int
) -> _Part:
    """The support of one task.

    Raises:
        ConfigError: the network can't be adapted.
    """
    _require_adaptable(model, way)
    return _Part(model, images[None], labels[None])


def _alone(phi: Weights) -> Adapted:
    """The weights of one task."""
    return Adapted(values={name: value[0] for name, value in phi.items()})


@torch.no_grad()
def _answer(
    method: object,
    model: Model,
    values: Mapping[str, Tensor],
    images: Float[Tensor, "Q C H W"],
) -> Float[Tensor, "Q c"]:
    """The adapted network's scores."""
    return _scores(model, {name: value[None] for name, value in values.items()}, images[None])[0]


def _adapt(part: _Part, by: LowerSolver) -> Weights:
    """The weights after the lower steps from the initial ones, as constants."""
    start = parameters(part.model, tasks=(len(part.images),))
    return hypergrad.argmin(part.objective, part.images, start, by=by, adjoint=Detached())


@runtime_checkable
class _BySteps(Protocol):
    """A method that adapts to a task by its lower steps alone."""

    @property
    def lower(self) -> Lower:
        """The steps that adapt the weights."""


@torch.no_grad()
def _predict_by_steps(method: _BySteps, model: Model, episodes: Episodes) -> Float[Tensor, "T Q c"]:
    """The adapted networks' scores."""
    support, query = _split(model, episodes)
    return query.logits(_adapt(support, method.lower.testing))


@torch.no_grad()
def _adapt_by_steps(
    method: _BySteps,
    model: Model,
    images: Float[Tensor, "S C H W"],
    labels: Int[Tensor, " S"],
    *,
    way: int,
) -> Adapted:
    """Adapt the network."""
    return _alone(_adapt(_support(model, images, labels, way), method.lower.testing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Maml:
    """Initial weights from which a few gradient steps lead far (Finn, Abbeel and Levine 2017).

    Attributes:
        lower: the steps, differentiated by `Unrolled`; or by `Detached`, which takes the derivative
            of the adapted weights in the initial ones to be the identity (their section 5.2:
            first-order MAML).

    Raises:
        ConfigError: another adjoint.
    """

    lower: Lower

    def __post_init__(self) -> None:
        if not isinstance(self.lower.adjoint, Unrolled | Detached):
            raise ConfigError(
                f"Maml was given with {self.lower.adjoint}, which does not differentiate the "
                "start: use Unrolled(), or Detached() for first-order MAML."
            )

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The initial head."""
        return {HEAD: initial_head(features, way, generator)}

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """Mean cross entropy of the queries after adaptation."""
        support, query = _split(model, episodes)
        start = _start(model, len(support.images))
        if isinstance(self.lower.adjoint, Detached):
            found = _adapt(support, self.lower.by)
            # The value is found's exactly; the derivative is start's.
            phi = {name: found[name] + (live - live.detach()) for name, live in start.items()}
        else:
            phi = hypergrad.argmin(
                support.objective,
                support.images,
                start,
                by=self.lower.by,
                adjoint=self.lower.adjoint,
            )
        return query.loss(phi)

    predict = _predict_by_steps
    adapt = _adapt_by_steps
    answer = _answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitMaml:
    """Initial weights to which the adapted ones are tied (Rajeswaran et al. 2019).

    g = cross entropy of the support + strength/2 |phi - theta|^2.

    Attributes:
        lower: adapts the weights and differentiates the result.
        strength: the tie's factor, positive (there lambda).

    Raises:
        ConfigError: a strength that is not positive.
    """

    lower: Lower
    strength: float

    def __post_init__(self) -> None:
        if not (self.strength > 0 and math.isfinite(self.strength)):
            raise ConfigError(
                f"strength was given as {self.strength}: it must be positive and finite."
            )

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The initial head."""
        return {HEAD: initial_head(features, way, generator)}

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """Mean cross entropy of the queries after adaptation."""
        support, query = _split(model, episodes)
        return query.loss(self._fit(support, self.lower, watch))

    @torch.no_grad()
    def predict(self, model: Model, episodes: Episodes) -> Float[Tensor, "T Q c"]:
        """The adapted networks' scores."""
        support, query = _split(model, episodes)
        lower = Lower(by=self.lower.testing, adjoint=Detached())
        return query.logits(self._fit(support, lower))

    @torch.no_grad()
    def adapt(
        self,
        model: Model,
        images: Float[Tensor, "S C H W"],
        labels: Int[Tensor, " S"],
        *,
        way: int,
    ) -> Adapted:
        """Adapt the network."""
        lower = Lower(by=self.lower.testing, adjoint=Detached())
        return _alone(self._fit(_support(model, images, labels, way), lower))

    answer = _answer

    def _fit(self, support: _Part, lower: Lower, watch: Watch = hypergrad.warn) -> Weights:
        tied: Proximal[Weights] = Proximal(
            lambda phi: support.objective(support.images, phi), self.strength
        )
        return hypergrad.argmin(
            tied,
            parameters(support.model),
            parameters(support.model, tasks=(len(support.images),)),
            by=lower.by,
            adjoint=lower.adjoint,
            watch=watch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reptile:
    """Move the initial weights towards the adapted ones (Nichol, Achiam and Schulman 2018).

    Nothing is differentiated: the loss is mean_i |theta - phi_i|^2 / 2 with phi_i held fixed, whose
    gradient is their update's direction, so that SGD with learning rate epsilon is their step.
    Weights are adapted to all images of a training task, support and query together.

    Attributes:
        lower: the steps, in testing on the support; the adjoint is `Detached`.

    Raises:
        ConfigError: another adjoint.
    """

    lower: Lower

    def __post_init__(self) -> None:
        if not isinstance(self.lower.adjoint, Detached):
            raise ConfigError(
                f"Reptile was given with {self.lower.adjoint}, but differentiates nothing: use "
                "Detached()."
            )

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The initial head."""
        return {HEAD: initial_head(features, way, generator)}

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """Half the mean squared distance from the initial to the adapted weights."""
        _split(model, episodes)  # for its checks
        labels = torch.cat((episodes.support_labels, episodes.query_labels), 1)
        found = _adapt(_Part(model, episodes.images, labels), self.lower.by)
        apart = [(live - found[name]).square() for name, live in parameters(model).items()]
        return torch.stack([part.sum() for part in apart]).sum() / (2 * len(episodes.images))

    predict = _predict_by_steps
    adapt = _adapt_by_steps
    answer = _answer
