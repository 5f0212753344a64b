"""Feature extractors for all tasks of a batch at once."""

from metalearn.backbones.backbone import Backbone
from metalearn.backbones.conv4 import Conv4
from metalearn.backbones.dropblock import DropBlock
from metalearn.backbones.norm import Norm
from metalearn.backbones.per_task import PerTask
from metalearn.backbones.resnet12 import ResNet12
from metalearn.backbones.source import Source
from metalearn.config.choices import Normalisation

__all__ = [
    "Backbone",
    "Conv4",
    "DropBlock",
    "Norm",
    "Normalisation",
    "PerTask",
    "ResNet12",
    "Source",
]
