"""The upper variable as one module: a backbone, and what a method learns beside it.

Shapes: T tasks, n images of one task, C channels, H, W pixels, d features, D = d + 1, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.backbones import Backbone, PerTask
from metalearn.backbones.backbone import rerun
from metalearn.backbones.per_task import batch_norms
from metalearn.config.choices import Precision
from metalearn.errors import ConfigError
from metalearn.methods.head import scores, with_constant

_AUTOCAST: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}

HEAD: Final = "head"
"""Name of the initial head, ``(c, D)``, among the variables of methods that learn one."""


class Model(nn.Module):
    """A backbone with a method's own variables; see `Method.variables`.

    Training and testing mode (`train()`, `eval()`) decide about dropping and about stored
    statistics, as in every module.

    Args:
        backbone: a `Backbone` that is an `nn.Module`; `PerTask` makes one of any module.
        own: initial values of the method's own variables, by name.
        precision: see `Precision`; float16 asks for a gradient scaler, see `accumulate`.
        streamed: one task's support, or its queries, pass the backbone at a time (they are
            normalised apart, so this is the least that is exact), and their activations are not
            kept: backward computes them again. A second pass forward, for memory that grows with
            the images and features of a chunk of tasks only, whose heads are solved together.

    Raises:
        ConfigError: the backbone is no module, or none that takes tasks.
    """

    def __init__(
        self,
        backbone: Backbone,
        own: Mapping[str, Tensor],
        *,
        precision: Precision = "float32",
        streamed: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise ConfigError(
                f"the backbone is a {type(backbone).__name__}: give an nn.Module, whose parameters "
                "can be learned."
            )
        if not isinstance(getattr(backbone, "features", None), int):
            raise ConfigError(
                f"the backbone {type(backbone).__name__} says no number of features: give "
                "PerTask(module, channels=..., size=...) of a module from (N, C, H, W) to (N, D)."
            )
        self.backbone: nn.Module = backbone
        self.own = nn.ParameterDict(dict(own))
        self.precision: Precision = precision
        self.streamed = streamed
        if precision == "float64":
            self.double()

    def features(self, images: Float[Tensor, "T n C H W"], support: int) -> Float[Tensor, "T n D"]:
        """The backbone's features and the constant 1, in the weights' precision."""
        self._require_tasks_apart()
        images = images.double() if self.precision == "float64" else images
        with self._autocast(images.device):
            if self.streamed and torch.is_grad_enabled():
                features = torch.cat([self._streamed(task, support) for task in images.split(1)])
            else:
                features = cast(Backbone, self.backbone)(images, support)
        return with_constant(features.to(images.dtype))

    def _streamed(self, task: Tensor, support: int) -> Tensor:
        backbone = cast(Backbone, self.backbone)
        parts = [part for part in task.tensor_split([support], dim=1) if part.numel()]
        return torch.cat(
            [rerun(lambda x: backbone(x, x.shape[1]), part, owner=self.backbone) for part in parts],
            dim=1,
        )

    def forward(self, images: Float[Tensor, "n C H W"]) -> Float[Tensor, "n c"]:
        """Scores of one part of one task by the initial head: the network of MAML and its kin."""
        self._require_tasks_apart()
        features = cast(Backbone, self.backbone)(images[None], len(images))[0]
        return scores(self.own[HEAD], with_constant(features))

    def _require_tasks_apart(self) -> None:
        """Raise if a layer would normalise by images of several tasks.

        Looked at in each call, since `train()` decides about it; some microseconds a layer.
        """
        if isinstance(self.backbone, PerTask):
            return
        for name, norm in batch_norms(self.backbone).items():
            raise ConfigError(
                f"the backbone's {name} is a {type(norm).__name__} that normalises by its batch, "
                "in which tasks meet, so that gradients would depend on which tasks share a chunk: "
                "give PerTask(module, channels=..., size=...) of the module from (N, C, H, W) to "
                "(N, D), which normalises each part of each task by itself; or put the layer in "
                "eval() to go by its stored statistics; or replace it by GroupNorm."
            )

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision not in _AUTOCAST:
            return nullcontext()
        return torch.autocast(device.type, _AUTOCAST[self.precision])
