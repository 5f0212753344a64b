"""What a run trains, and what trains it, from the run's settings."""

from __future__ import annotations

import torch

from metalearn.backbones import Conv4, ResNet12
from metalearn.config.train import TrainConfig
from metalearn.data import Pool
from metalearn.errors import ConfigError
from metalearn.methods import Model
from metalearn.methods.model import HEAD
from metalearn.methods.presets import Preset
from metalearn.training.layout import channels_last_is_faster, lay_out


def build_model(config: TrainConfig, pool: Pool, *, device: torch.device) -> Model:
    """The model for a pool's images; its initial weights depend on the seed, not the device.

    Raises:
        ConfigError: backbone and images, or method and protocol, don't go together.
    """
    network, memory = config.backbone, config.memory
    channels, size = pool.images.shape[2], pool.images.shape[-1]
    generator = torch.Generator().manual_seed(config.run.seed)
    backbone: Conv4 | ResNet12
    if network.name == "resnet12":
        backbone = ResNet12(
            channels=channels,
            size=size,
            normalisation=network.normalisation,
            drop_rate=network.drop_rate,
            block=5 if size >= 80 else 2,  # as published for 84 and for 32 pixels
            recompute=memory.recompute,
            generator=generator,
        )
    else:
        backbone = Conv4(
            filters=network.filters if network.name == "conv4" else (96, 192, 384, 512),
            channels=channels,
            size=size,
            normalisation=network.normalisation,
            recompute=memory.recompute,
            generator=generator,
        )
    method = config.preset().method
    own = method.variables(features=backbone.features, way=config.train.way, generator=generator)
    if HEAD in own and config.train.way != config.test.way:
        raise ConfigError(
            f"method {config.method.name} learns an initial head for {config.train.way} classes, "
            f"but is tested with {config.test.way}: give --train.way {config.test.way}."
        )
    model = Model(backbone, own, precision=network.precision, streamed=memory.streamed).to(device)
    asked = network.channels_last
    faster = channels_last_is_faster(backbone, method, device)
    lay_out(model, channels_last=faster if asked is None else asked)
    return model


def build_optimiser(configured: Preset, model: Model) -> torch.optim.Optimizer:
    """The optimiser of the upper step."""
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[configured.optimiser]
    made: torch.optim.Optimizer = kind(model.parameters(), lr=configured.learning_rate)
    return made
