"""Interface of a few-shot method: its variables, its loss and its answers.

Shapes: T tasks, S support and Q query images of one task, C channels, H, W pixels, c classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypergrad import Certificate
from metalearn.methods.model import Model
from metalearn.tasks.episodes import Episodes

Watch: TypeAlias = Callable[[Certificate], None]
"""Is given the certificate of each lower level that is differentiated implicitly."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapted:
    """Answer learned from the support of one task, for queries to come.

    Attributes:
        values: tensors by name: a head, or the adapted weights of the whole network.
        converged: True if the lower solver met its tolerance; None if it has none, because it takes
            a fixed number of steps or solves in closed form.
        stationarity: length of the lower objective's gradient at the end; None likewise where it is
            not computed.
    """

    values: Mapping[str, Tensor]
    converged: bool | None = None
    stationarity: float | None = None


@runtime_checkable
class Method(Protocol):
    """A frozen value: the settings of a method. All that is learned is in the `Model`."""

    def variables(
        self, *, features: int, way: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Initial values of the learned variables beside the backbone.

        Args:
            features: d.
            way: c, the classes of the tasks to come.
            generator: draws what is drawn; None: torch's own.
        """
        ...

    def loss(self, model: Model, episodes: Episodes, *, watch: Watch) -> Float[Tensor, ""]:
        """The upper loss, a mean over the tasks, whose backward is the hypergradient.

        Raises:
            hypergrad.NotFiniteError: the lower level is not finite.
            ConfigError: the model can't be used with this method.
        """
        ...

    def predict(self, model: Model, episodes: Episodes) -> Float[Tensor, "T Q c"]:
        """Scores of the query images, the lower level solved as in testing; keeps no graph.

        Raises:
            hypergrad.NotFiniteError: the lower level is not finite.
            ConfigError: the model can't be used with this method.
        """
        ...

    def adapt(
        self,
        model: Model,
        images: Float[Tensor, "S C H W"],
        labels: Int[Tensor, " S"],
        *,
        way: int,
    ) -> Adapted:
        """Learn one task from its support, as in testing; keeps no graph.

        Args:
            model: the trained model, in its testing mode.
            images: support, any number of each class.
            labels: the class of each image, below `way`.
            way: c.

        Raises:
            hypergrad.NotFiniteError: the lower level is not finite.
            ConfigError: the model can't be used with this method, or for so many classes.
        """
        ...

    def answer(
        self, model: Model, values: Mapping[str, Tensor], images: Float[Tensor, "Q C H W"]
    ) -> Float[Tensor, "Q c"]:
        """Scores of queries, by the values that `adapt` returned; keeps no graph."""
        ...
