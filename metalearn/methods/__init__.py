"""Few-shot methods: frozen settings that turn a model and episodes into a loss or an answer."""

from metalearn.config.choices import Precision
from metalearn.methods.heads import LinearHeads, ProtoNet, RidgeHeads
from metalearn.methods.method import Method
from metalearn.methods.model import Model
from metalearn.methods.networks import ImplicitMaml, Maml, Reptile

__all__ = [
    "ImplicitMaml",
    "LinearHeads",
    "Maml",
    "Method",
    "Model",
    "Precision",
    "ProtoNet",
    "Reptile",
    "RidgeHeads",
]
