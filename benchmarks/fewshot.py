"""Set-ups of the few-shot benchmarks: backbones with images of noise, and methods at a given K.

What a step costs does not depend on what the images show.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.provenance import SEED
from hypergrad import Certificate
from metalearn.backbones import Conv4, ResNet12
from metalearn.methods import Method, Model
from metalearn.methods.overrides import adjusted, numbers
from metalearn.methods.presets import preset
from metalearn.tasks.episodes import Episodes
from metalearn.training.build import channels_last_is_faster, lay_out
from metalearn.training.step import accumulate

WAY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A backbone and the tasks of one upper step.

    Attributes:
        name: in tables.
        filters: filters of a Conv4; None for ResNet-12.
        side: pixels of an image.
        tasks: tasks of a step.
        shot: support images of a class.
        query: query images of a class.
    """

    name: str
    filters: int | None
    side: int
    tasks: int = 4
    shot: int = 5
    query: int = 5

    @property
    def images(self) -> int:
        """Numbers of images of one task."""
        return WAY * (self.shot + self.query)

    def backbone(self) -> Conv4 | ResNet12:
        """With weights that depend on the seed only; nothing is dropped."""
        generator = torch.Generator().manual_seed(SEED)
        if self.filters is None:
            return ResNet12(channels=3, size=self.side, drop_rate=0.0, generator=generator)
        return Conv4(filters=self.filters, channels=3, size=self.side, generator=generator)

    def model(self, method: Method, *, device: str = "cpu", streamed: bool = False) -> Model:
        """The upper variable, laid out as `metalearn train` does."""
        generator = torch.Generator().manual_seed(SEED)
        backbone = self.backbone()
        own = method.variables(features=backbone.features, way=WAY, generator=generator)
        model = Model(backbone, own, streamed=streamed).to(device)
        faster = channels_last_is_faster(backbone, method, torch.device(device))
        lay_out(model, channels_last=faster)
        return model

    def episodes(self, *, device: str = "cpu") -> Episodes:
        """Noise, the tasks inside (see `Episodes`)."""
        generator = torch.Generator().manual_seed(SEED)
        shape = (self.images, self.tasks, 3, self.side, self.side)
        labels = torch.arange(WAY, device=device)
        return Episodes(
            images=torch.rand(shape, generator=generator).to(device).transpose(0, 1),
            support_labels=labels.repeat(self.shot).repeat(self.tasks, 1),
            query_labels=labels.repeat(self.query).repeat(self.tasks, 1),
            way=WAY,
            shot=self.shot,
            query=self.query,
        )


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="cifar-conv4-64", filters=64, side=32),
        Setting(name="mini-conv4-32", filters=32, side=84),
        Setting(name="cifar-resnet12", filters=None, side=32, tasks=2, shot=1, query=1),
    )
}

# One preset for each method; those that take no fixed number of steps are the same for every K.
METHODS = (
    "memory-reduced",
    "memory-reduced-exact",
    "itd-bio",
    "anil",
    "maml",
    "fomaml",
    "imaml",
    "reptile",
    "r2d2",
    "protonet",
)
STEPS = (1, 5, 10, 20, 50, 100)


def method(name: str, steps: int) -> Method:
    """A preset with K steps, and with N = K where its adjoint takes a fixed number of them."""
    found = preset(name).method
    own = numbers(found)
    if own.K is None:
        return found
    return adjusted(found, lower_steps=steps, adjoint_steps=None if own.N is None else steps)


def takes_steps(name: str) -> bool:
    """True if the method takes K."""
    return numbers(preset(name).method).K is not None


class Step:
    """One upper step without the optimiser: gradients into `grad`, as the training loop does.

    Args:
        subject: the method.
        setting: backbone and tasks.
        device: to run on.
        tasks_per_chunk: see `accumulate`.
        streamed: see `Model`.

    Attributes:
        certificates: certificates of the last call, one for each chunk.
    """

    def __init__(
        self,
        subject: Method,
        setting: Setting,
        *,
        device: str = "cpu",
        tasks_per_chunk: int | None = None,
        streamed: bool = False,
    ) -> None:
        self.method, self.tasks_per_chunk = subject, tasks_per_chunk
        self.model = setting.model(subject, device=device, streamed=streamed)
        self.episodes = setting.episodes(device=device)
        self.certificates: list[Certificate] = []

    def __call__(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.certificates.clear()
        accumulate(
            self.method,
            self.model,
            self.episodes.split(self.tasks_per_chunk or self.episodes.tasks),
            tasks=self.episodes.tasks,
            watch=self.certificates.append,
        )

    def products(self) -> int:
        """Hessian products of the last call, each serving all tasks of its chunk."""
        return sum(one.adjoint.matvecs for one in self.certificates)

    def residual(self) -> float | None:
        """The worst adjoint residual of the last call; None without an adjoint system."""
        if not self.certificates:
            return None
        return max(float(one.adjoint.residual.max()) for one in self.certificates)

    def gradient(self) -> Tensor:
        """The hypergradient, flat, by one call."""
        self()
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters()]
        return torch.cat([part.flatten() for part in parts])

    def parameters(self) -> list[Tensor]:
        """Learned variables."""
        return list(self.model.parameters())

    def widen(self) -> None:
        """Go on in float64."""
        self.model.double()
        self.episodes = dataclasses.replace(self.episodes, images=self.episodes.images.double())

    def rounding(self) -> float:
        """Relative distance of the hypergradient from that of the same program in float64."""
        exact = copy.copy(self)
        exact.model = copy.deepcopy(self.model)
        exact.certificates = []
        exact.widen()
        reference = exact.gradient()
        return float((self.gradient() - reference).norm() / reference.norm())


def backbone_pass(
    setting: Setting, *, device: str = "cpu", channels_last: bool | None = None
) -> tuple[nn.Module, Callable[[], None]]:
    """One forward and one backward of the backbone alone on all images of a step: the limit.

    By default in the layout in which it is faster.
    """
    backbone = setting.backbone().to(device)
    if channels_last is None:
        channels_last = device == "cpu" and setting.filters is not None
    lay_out(backbone, channels_last=channels_last)
    episodes = setting.episodes(device=device)
    support = episodes.support_labels.shape[1]

    def run() -> None:
        backbone.zero_grad(set_to_none=True)
        features = backbone(episodes.images, support)
        features.backward(torch.ones_like(features))

    return backbone, run
