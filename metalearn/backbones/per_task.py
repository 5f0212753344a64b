"""Any module from images to features as a backbone: no task sees another.

Shapes: T tasks, S support and Q query images of one task, n = S + Q, N images of any tasks,
C channels, H, W pixels, D features.
"""

from __future__ import annotations

import copy
import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from metalearn.backbones.backbone import keeps, rerun, unnoticed
from metalearn.backbones.norm import check_normalisation
from metalearn.backbones.source import structure
from metalearn.config.choices import Normalisation
from metalearn.errors import ConfigError

# Rounding of some 10^4 operations in float64 is 1e-12 of the result; a batch statistic moves it by
# percents.
_MIXED: Final = math.sqrt(torch.finfo(torch.float64).eps)
# Sizes of the two batches of trial images: both larger than 1, as batch normalisation asks.
_TRIAL: Final = (3, 2)


class PerTask(nn.Module):
    """A module from (N, C, H, W) to (N, D), given the images of several tasks.

    Where the module normalises by its batch, each task's support and each task's query pass alone,
    so that the batch is always one part of one task. Otherwise all images pass together. Which of
    the two is found by the types of its layers (`BatchNorm`), and for other layers by trial on
    random images.

    Parts of the module that are given in `eval()` mode stay in it: dropout there is off, and batch
    normalisation there goes by its stored statistics, which stay as they are. Frozen parameters
    (`requires_grad=False`) stay frozen.

    Args:
        net: the module. It must draw random numbers by torch's own generators only, and change
            none of its buffers but the running statistics of `BatchNorm`.
        channels: C.
        size: H and W.
        normalisation: meaning of the module's `BatchNorm` layers in training mode, see
            `Normalisation`. Running averages of `stored` are the layers' own: each part of each
            task moves them once. `group` is for modules without such layers.
        recompute: keep the images only, and run the module again in backward.

    Attributes:
        features: D.
        mixes: a batch of images gives other features than its images one by one.
        structure: digest of the module's layers and shapes, see `structure`.

    Raises:
        ConfigError: the module fails on trial images, gives no (N, D), draws random numbers that
            torch's seed does not set, changes a buffer, or can't be normalised as asked.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        channels: int,
        size: int,
        normalisation: Normalisation = "transductive",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        check_normalisation(normalisation, ())
        self.net = net
        self.recompute = recompute
        self.normalisation: Normalisation = normalisation
        self._still = [part for part in net.modules() if not part.training]
        self._norms = batch_norms(net)
        self._shape = (channels, size, size)
        self._require_norms()
        _require_tensors(net)
        self.structure = structure(net)
        if normalisation == "transductive":
            for norm in self._norms.values():
                norm.track_running_stats = False
        self.features, self.mixes = _examine(net, channels, size, normed=bool(self._norms))

    @property
    def stores(self) -> bool:
        """Training moves running statistics, which testing goes by."""
        return self.normalisation == "stored" and bool(self._norms)

    @property
    def statistics(self) -> str:
        """Name of what normalises an image, for records."""
        if self.mixes:
            return self.normalisation if self._norms else "transductive"
        stored = any(isinstance(part, _BatchNorm) for part in self._still)
        return "stored statistics as given" if stored else "each image by itself"

    def train(self, mode: bool = True) -> PerTask:
        """Set training or testing mode, but for the parts that were given in `eval()` mode.

        Batch statistics that are `transductive` are the same in both modes.
        """
        super().train(mode)
        for part in self._still:
            part.training = False
        if self.normalisation == "transductive":
            for norm in self._norms.values():
                norm.training = True
        return self

    def forward(self, images: Float[Tensor, "T n C H W"], support: int) -> Float[Tensor, "T n D"]:
        """Features of all images of all tasks, the first `support` of each task being its support.

        Each image's features depend on images of its own part of its own task only. What is D
        channels of one pixel are features already, and stays.
        """
        if tuple(images.shape[2:]) == (self.features, 1, 1) != self._shape:
            return images.flatten(2)
        if not self.mixes:
            inside = images.transpose(0, 1)  # contiguous, see `Episodes`
            features = self._run(inside.flatten(0, 1))
            return features.reshape(*inside.shape[:2], self.features).transpose(0, 1)
        return torch.stack(
            [
                torch.cat([self._run(part) for part in task.tensor_split([support]) if len(part)])
                if support
                else self._run(task)  # no length is looked at: `torch.export` keeps it open
                for task in images
            ]
        )

    def _run(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        if keeps(self.recompute):
            features: Tensor = self.net(images)
            return features
        again: Tensor = rerun(self.net, images, owner=self.net)
        return again

    def _require_norms(self) -> None:
        """Raise if the module's batch normalisation can't mean what was asked for."""
        if not self._norms:
            return
        name, norm = next(iter(self._norms.items()))
        what = f"{len(self._norms)} layers such as {name} ({type(norm).__name__})"
        if self.normalisation == "group":
            raise ConfigError(
                f"normalisation group was given, but the backbone has {what}, which normalises by "
                "its batch: give normalisation transductive (statistics of each part of each "
                "task) or stored; or put these layers in eval() to go by their stored statistics; "
                "or replace them by GroupNorm."
            )
        for name, norm in self._norms.items():
            if self.normalisation == "stored" and norm.running_mean is None:
                raise ConfigError(
                    f"normalisation is stored, but the backbone's {name} keeps no running "
                    "statistics: make it with track_running_stats=True, or give normalisation "
                    "transductive."
                )


def batch_norms(net: nn.Module) -> dict[str, _BatchNorm]:
    """The layers of a module that normalise by their batch, by name."""
    return {
        name or "the module": part
        for name, part in net.named_modules()
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
    }


def _require_tensors(net: nn.Module) -> None:
    for name, value in net.state_dict().items():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"the backbone's state {name} is a {type(value).__name__}: files of weights hold "
                "tensors only, so keep it outside the module's state."
            )


def _examine(net: nn.Module, channels: int, size: int, *, normed: bool) -> tuple[int, bool]:
    """Number of features, and whether images of a batch meet; torch's generators stay as they were.

    Raises:
        ConfigError: the module can't be a backbone.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(sum(_TRIAL), channels, size, size, generator=generator)
    with torch.random.fork_rng([]), torch.no_grad():
        features = _tried(net, images)  # makes what is lazy
        before = {name: value.clone() for name, value in net.named_buffers()}
        first, again = (_seeded(net, images) for _ in range(2))
        for name, value in net.named_buffers():
            if not torch.equal(value, before[name]):
                raise ConfigError(
                    f"the backbone changes its buffer {name} when it is called, so that a task's "
                    "features would depend on the tasks before it: put that layer in eval(), or "
                    "replace it. (Running statistics of BatchNorm are the one exception.)"
                )
        if not bool((first - again).abs().max() <= 1e-3 * first.abs().max()):  # else: rounding
            raise ConfigError(
                "the backbone gave two answers to the same images from the same torch seed: draw "
                "its random numbers by torch's own generators, which checkpoints hold and "
                "recomputation sets back."
            )
        return features.shape[1], normed or _meet(net, images.double())


def _seeded(net: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(0)
    return _tried(net, images)


def _tried(net: nn.Module, images: Tensor) -> Tensor:
    """Features of trial images.

    Raises:
        ConfigError: the module fails, or gives something else.
    """
    try:
        with unnoticed(net):
            found: object = net(images)
    except Exception as error:  # any type may come out of code that is not ours
        raise ConfigError(
            f"the backbone {type(net).__name__} failed on images of shape {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}. It must take images of shape (N, C, H, W)."
        ) from error
    if not isinstance(found, Tensor):
        given = f"a {type(found).__name__}"
    elif found.ndim != 2 or len(found) != len(images) or not found.is_floating_point():
        given = f"{found.dtype} of shape {tuple(found.shape)}"
    else:
        if not bool(found.isfinite().all()):
            raise ConfigError("the backbone's features of trial images are NaN or infinite.")
        return found
    raise ConfigError(
        f"the backbone {type(net).__name__} gave {given} for {len(images)} images: it must give "
        "one row of features for each image, a floating-point tensor of shape (N, D)."
    )


def _meet(net: nn.Module, images: Float[Tensor, "N C H W"]) -> bool:
    """True if a batch gives other features than its parts, by a trial on a copy in float64.

    The copy's weights are moved at random, so that no layer is hidden by a zero. Dropout is off. A
    module that draws all the same, or can't be run in float64, counts as one whose images meet:
    each part of each task then passes alone, which is always right.
    """
    try:
        other = copy.deepcopy(net).double()
    except Exception as error:  # any type may come out of code that is not ours
        raise ConfigError(
            f"the backbone {type(net).__name__} can't be copied ({type(error).__name__}: {error}): "
            "a run copies it to test its best weights."
        ) from error
    for part in other.modules():
        if isinstance(part, _DropoutNd):
            part.eval()
    generator = torch.Generator().manual_seed(1)
    for value in other.parameters():
        value.add_(torch.randn(value.shape, generator=generator, dtype=torch.float64), alpha=0.01)
    state = torch.get_rng_state()
    try:
        whole = other(images)
        apart = torch.cat([other(part) for part in images.split(_TRIAL)])
    except RuntimeError:
        return True
    drew = not torch.equal(state, torch.get_rng_state())
    return drew or not bool((whole - apart).abs().max() <= _MIXED * whole.abs().max())
