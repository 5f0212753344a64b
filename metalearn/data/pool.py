"""All images of one split, where episodes are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import UInt8
from torch import Tensor

Split: TypeAlias = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Pool:
    """Images of one split, grouped by class, resident on one device.

    The class of an image is its place in the first dimension: no separate labels to keep in step.

    Attributes:
        images: ink or light, 0 to 255.
        split: which split; part of the key of every episode drawn from here.
        names: one for each class.
    """

    images: UInt8[Tensor, "classes examples channels height width"]
    split: Split
    names: tuple[str, ...]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.images.shape[0]

    @property
    def examples(self) -> int:
        """How many images each class has."""
        return self.images.shape[1]

    def to(self, device: torch.device) -> Pool:
        """The same pool on another device."""
        return replace(self, images=self.images.to(device))
