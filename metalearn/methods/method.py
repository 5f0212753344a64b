"""Interface of a few-shot method: its variables, its loss and its answers.

Shapes: T tasks, Q query images of one task, c classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import Certificate
from metalearn.methods.model import Model
from metalearn.tasks.episodes import Episodes

Watch: TypeAlias = Callable[[Certificate], None]
"""Is given the certificate of each lower level that is differentiated implicitly."""


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
