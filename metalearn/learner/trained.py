"""Frozen backbone of a run with its method: what every learner of the run shares.

Shapes: N pictures, S of them support, C channels, H, W pixels, d features, c classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metalearn.backbones import Norm
from metalearn.backbones.per_task import PerTask
from metalearn.backbones.pretrained import unusable
from metalearn.backbones.source import Source, imported, name_of, require_confirmed
from metalearn.config.train import TrainConfig
from metalearn.data.pool import Pool
from metalearn.errors import RunError
from metalearn.methods import Method, Model
from metalearn.methods.method import Adapted
from metalearn.methods.overrides import adjusted
from metalearn.runs.card import Card
from metalearn.training.build import build_model, lay_out

# Pictures that pass the backbone at once where they don't depend on each other: bounds memory.
_TOGETHER: Final = 256


@dataclass(frozen=True, eq=False)
class Trained:
    """Trained weights and the method that uses them.

    Copies share the weights, which nothing changes.

    Attributes:
        model: the weights, in testing mode.
        card: card beside the weights.
        config: settings of the run.
        device: device that the weights are on.
    """

    model: Model
    card: Card
    config: TrainConfig
    device: torch.device

    @staticmethod
    def of(
        weights: Mapping[str, Tensor], card: Card, backbone: Source | str | None = None
    ) -> Trained:
        """Trained weights with their card.

        Args:
            weights: by name.
            card: card beside the weights.
            backbone: the backbone again, or its name, where it is none of the built-in ones: no
                file makes this package run code.

        Raises:
            RunError: the weights are not those of the settings.
            ConfigError: the settings are not those of this version, or name another backbone.
        """
        config, picture = card.config, card.pictures
        if backbone is None or isinstance(backbone, str):
            require_confirmed(config.backbone.name, backbone)
            source = imported(config.backbone.name)
        else:
            require_confirmed(config.backbone.name, name_of(backbone))
            source = backbone
        device = config.place()
        shape = (1, 1, picture.channels, picture.side, picture.side)
        like = Pool(torch.zeros(shape, dtype=torch.uint8), "test", ("",))
        model = build_model(config, like, device=device, source=source)
        for name, value in model.state_dict().items():
            if name in weights and (said := unusable(weights[name], value)):
                raise RunError(f"the weights hold {name} {said}.")
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise RunError(f"the weights don't fit their settings: {error}") from error
        return Trained(model.eval(), card, config, device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Trained:
        return self

    def __sklearn_clone__(self) -> Trained:
        return self

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<{config.method.name}, {config.backbone}, normalisation {self.card.normalisation}, "
            f"trained on {self.card.data}>"
        )

    @cached_property
    def one_by_one(self) -> bool:
        """True if the features of a picture depend on no other picture of the call."""
        if isinstance(self.model.backbone, PerTask):
            return self.model.backbone.statistics != "transductive"
        return not any(
            isinstance(part, Norm) and part.mode == "transductive" for part in self.model.modules()
        )

    def method(self, l2: float | None = None) -> Method:
        """The run's method, with another regulariser if one is given.

        Raises:
            ConfigError: the method has none.
        """
        method = self.config.preset().method
        return method if l2 is None else adjusted(method, l2=l2)

    def adapt(
        self,
        images: Float[Tensor, "S C H W"],
        labels: Int[Tensor, " S"],
        *,
        way: int,
        l2: float | None,
    ) -> Adapted:
        """Learn a task from its support.

        Raises:
            hypergrad.NotFiniteError: the lower level is not finite.
            ConfigError: the method can't be used for so many classes, or has no `l2`.
        """
        method = self.method(l2)
        return method.adapt(self.model, images.to(self.device), labels.to(self.device), way=way)

    def answer(
        self, values: Mapping[str, Tensor], images: Float[Tensor, "N C H W"]
    ) -> Float[Tensor, "N c"]:
        """Scores of pictures, on the CPU."""
        method = self.method()
        return torch.cat(
            [method.answer(self.model, values, part).cpu() for part in self._parts(images)]
        )

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N d"]:
        """Features of pictures by the trained weights, on the CPU."""
        return torch.cat([self._features(part).cpu() for part in self._parts(images)])

    def _features(self, images: Tensor) -> Tensor:
        # without the constant, which is the head's
        return self.model.features(images[None], len(images))[0, :, :-1]

    def _parts(self, images: Tensor) -> list[Tensor]:
        sent = images.to(self.device)
        return list(sent.split(_TOGETHER)) if self.one_by_one else [sent]


class Embedding(nn.Module):
    """The features of pictures (N, C, H, W) in [0, 1] as a module, for `torch.export`."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = copy.deepcopy(trained.model).requires_grad_(False)
        # files of programs hold memory as it lies, whatever its strides say
        lay_out(self.model, channels_last=False)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N d"]:
        """Features (N, d)."""
        features: Tensor = self.model.features(images[None], 0)[0, :, :-1]
        return features
