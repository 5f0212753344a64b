"""Names that settings choose from; nothing is imported, so that `--help` answers at once."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Split: TypeAlias = Literal["train", "validation", "test"]

DatasetName: TypeAlias = Literal[
    "omniglot", "cifar-fs", "fc100", "miniimagenet", "tieredimagenet", "folders"
]
"""Data sets that `metalearn prepare` makes."""

DataName: TypeAlias = Literal["glyphs"] | DatasetName

Residency: TypeAlias = Literal["auto", "device", "host"]

MethodName: TypeAlias = Literal[
    "memory-reduced",
    "memory-reduced-exact",
    "itd-bio",
    "anil",
    "maml",
    "maml-omniglot",
    "maml-omniglot-20way",
    "maml-baseline",
    "maml-learn2learn",
    "fomaml",
    "imaml",
    "reptile",
    "r2d2",
    "protonet",
]
"""Names of `metalearn.methods.presets.PRESETS`."""

AdjointName: TypeAlias = Literal["cg", "woodbury"]
"""`cg`: a number of steps of conjugate gradients; `woodbury`: a direct solve."""

BackboneName: TypeAlias = Literal["conv4", "conv4-wide", "resnet12"]
"""Built-in backbones. Beside them `module:function` names a function that makes one."""

GIVEN: Final = "given:"
"""Start of the name of a backbone that was given in Python and that no import leads to."""

TIMM: Final = "timm:"
"""Start of the name of a backbone that is a model of the package timm."""

Normalisation: TypeAlias = Literal["transductive", "stored", "group"]
"""Images that an image is normalised with.

`transductive`: batch normalisation by the image's own task, support and query apart, in training
and in testing alike. An answer then depends on the other queries of its task.
`stored`: in training (`module.train()`) as transductive, while running averages of these means and
(unbiased) variances are kept; in testing (`module.eval()`) the averages normalise every image, so
that an answer depends on no other query. The averages move by a tenth towards the mean over the
tasks of each part that passes: support, then query, and once for each chunk of tasks, or for each
task in streamed steps.
`group`: group normalisation, each image by itself (Wu and He 2018).
"""

Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "float64"]
"""Precision of the backbone's products. The 16 bits are autocast: weights, features and lower
levels stay float32. `float64` holds for all of them; it is slow, and shows what is rounding.

Methods that adapt the whole network take float32 only: there the lower level is the network.
"""

BudgetKind: TypeAlias = Literal["steps", "tasks", "images", "seconds"]
"""Unit of the budget that all methods of a comparison share."""

Optimiser: TypeAlias = Literal["adam", "sgd"]

Schedule: TypeAlias = Literal["constant", "cosine"]

Device: TypeAlias = Literal["auto", "cpu", "cuda"]

TrackerName: TypeAlias = Literal["tensorboard", "wandb", "none"]

CAME_LATER: Final[dict[str, object]] = {
    "cache_features": False,
    "frozen": False,
    "jitter": False,
    "layer_rates": (),
    "normalisation": "transductive",
    "pretrained": None,
    "seconds": None,
    "wide_heads": False,
}
"""Settings that runs recorded earlier do not name, each with the value those runs had."""
