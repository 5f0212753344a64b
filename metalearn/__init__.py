"""Few-shot learning by hypergradients, with memory that doesn't grow with the lower-level steps.

`train` runs what a `TrainConfig` describes, and `load` makes a `Learner` of a run, which learns
classes of your own pictures. To train in a loop of your own, draw `Episodes` by a `Sampler`, choose
a `Method` by `preset`, and step on its loss of a `Model`, which holds a `Backbone`. The rest has
its place in the subpackages: `backbones`, `data`, `methods`, `tasks`, `testing`, `runs`.

Each name is imported when it is first used, so that `import metalearn` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from metalearn.backbones.backbone import Backbone
    from metalearn.config.train import TrainConfig
    from metalearn.learner.learner import Learner, load
    from metalearn.methods.method import Method
    from metalearn.methods.model import Model
    from metalearn.methods.presets import preset
    from metalearn.tasks.episodes import Episodes, Sampler
    from metalearn.training.loop import train

__all__ = [
    "Backbone",
    "Episodes",
    "Learner",
    "Method",
    "Model",
    "Sampler",
    "TrainConfig",
    "load",
    "preset",
    "train",
]

_MODULES: Final = {
    "Backbone": "metalearn.backbones.backbone",
    "Episodes": "metalearn.tasks.episodes",
    "Learner": "metalearn.learner.learner",
    "Method": "metalearn.methods.method",
    "Model": "metalearn.methods.model",
    "Sampler": "metalearn.tasks.episodes",
    "TrainConfig": "metalearn.config.train",
    "load": "metalearn.learner.learner",
    "preset": "metalearn.methods.presets",
    "train": "metalearn.training.loop",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
