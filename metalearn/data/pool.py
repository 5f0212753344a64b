"""All images of one split, where episodes are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from metalearn.data.published import Split


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Images of one split, grouped by class.

    The class of an image is its place in the first dimension: no separate labels to keep in step.

    Attributes:
        images: ink or light, 0 to 255; in memory, on a device, or mapped from a file. A write to
            ones that are more than memory holds ends the process. Or features in their place
            (floating point, as many channels of one pixel), see `training.features`.
        split: name of the split; part of the key of every episode drawn from here.
        names: name of each class.
        counts: number of images of each class, the rest being padding; None: all.
        target: device that drawn images go to; None: the one that holds the images.
    """

    images: (
        UInt8[Tensor, "classes examples channels height width"]
        | Float[Tensor, "classes examples channels height width"]
    )
    split: Split
    names: tuple[str, ...]
    counts: tuple[int, ...] | None = None
    target: torch.device | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.images.shape[0]

    @property
    def examples(self) -> int:
        """Number of images that a class has room for."""
        return self.images.shape[1]

    @property
    def fewest(self) -> int:
        """Number of images of the smallest class."""
        return self.examples if self.counts is None else min(self.counts)

    @property
    def device(self) -> torch.device:
        """Device of the drawn images."""
        return self.images.device if self.target is None else self.target

    def to(self, device: torch.device) -> Pool:
        """The same pool on another device."""
        return replace(self, images=self.images.to(device), target=None)

    def rotated(self) -> Pool:
        """Four times the classes: turned by 0, 90, 180 and 270 degrees, as Omniglot's are.

        Turned classes keep to their split; all are copied to the device of the images.
        """
        turned = [self.images.rot90(quarters, (3, 4)) for quarters in range(4)]
        names = [f"{name} turned by {90 * q}" for q in range(4) for name in self.names]
        counts = None if self.counts is None else self.counts * 4
        return replace(self, images=torch.cat(turned), names=tuple(names), counts=counts)

    def gather(self, rows: Int[np.ndarray, " n"]) -> Float[Tensor, "n channels height width"]:
        """Images in [0, 1] on `device`, by class times `examples` plus place in the class.

        What goes to a GPU goes through pinned memory, so that the copy needn't be waited for.
        """
        index = torch.from_numpy(rows)
        flat = self.images.flatten(0, 1)
        if self.device == self.images.device:
            found = flat[sent(index, self.device)]
        else:
            found = sent(flat[index], self.device)
        return found if found.is_floating_point() else found.float().div_(255)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on a device; one in pinned memory a GPU's copy isn't waited for."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
