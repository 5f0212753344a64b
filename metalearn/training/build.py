"""Build the parts of a run from its settings: data, episodes, model and optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hypergrad import Detached
from metalearn.backbones import Conv4, PerTask, ResNet12, Source
from metalearn.backbones.source import made
from metalearn.config.groups import EpisodeShape
from metalearn.config.train import EVALUATION_SEED, TrainConfig
from metalearn.data import (
    Identity,
    Pool,
    Split,
    glyph_pool,
    glyphs_identity,
    prepared_identity,
    prepared_pool,
)
from metalearn.errors import ConfigError
from metalearn.methods import ImplicitMaml, Maml, Method, Model
from metalearn.methods.model import HEAD
from metalearn.methods.presets import Preset
from metalearn.tasks.augmentation import Augmentation, Photo
from metalearn.tasks.episodes import GLYPH_JITTER, Sampler
from metalearn.training.rates import freeze, grouped


def identity(config: TrainConfig) -> Identity:
    """The data of a run, checked.

    Raises:
        DataError: the images can't be rendered, read, or were changed since they were prepared.
    """
    if config.data.name == "glyphs":
        return glyphs_identity()
    return prepared_identity(config.data.name, root=config.data.root)


def training_sampler(config: TrainConfig, *, device: torch.device) -> Sampler:
    """The training episodes of a run.

    Raises:
        EpisodeError: the split has too few classes or images.
        DataError: the images can't be rendered or read.
    """
    return _sampler("train", config.train, config, seed=config.run.seed, device=device)


def evaluation_sampler(split: Split, config: TrainConfig, *, device: torch.device) -> Sampler:
    """The validation or test episodes of a run; see `training_sampler`."""
    return _sampler(split, config.test, config, seed=EVALUATION_SEED, device=device)


def _sampler(
    split: Split, shape: EpisodeShape, config: TrainConfig, *, seed: int, device: torch.device
) -> Sampler:
    augmentation: Augmentation | None = None
    if config.data.name == "glyphs":
        pool, augmentation = glyph_pool(split, device=device), GLYPH_JITTER
    else:
        pool = prepared_pool(
            config.data.name,
            split,
            root=config.data.root,
            device=device,
            residency=config.data.residency,
        )
        if config.data.name == "omniglot":
            pool = pool.rotated()
            if config.data.jitter and split == "train":
                augmentation = GLYPH_JITTER
        elif config.data.augment and split == "train":
            # as published: 8 pixels for 84, 4 for 32
            augmentation = Photo(padding=8 if pool.images.shape[-1] >= 80 else 4)
    return Sampler(
        pool=pool,
        way=shape.way,
        shot=shape.shot,
        query=shape.query,
        seed=seed,
        augmentation=augmentation,
        fewest_way=shape.fewest_way,
        fewest_shot=shape.fewest_shot,
    )


def build_model(
    config: TrainConfig, pool: Pool, *, device: torch.device, source: Source | None = None
) -> Model:
    """The model for a pool's images; its initial weights depend on the seed, not the device.

    Args:
        config: settings of the run.
        pool: images of a split.
        device: device of the model.
        source: the backbone, where the settings name one that is not built in. It is not imported
            here, since the settings may be a file's.

    Raises:
        ConfigError: backbone and images, or method and protocol, don't go together.
    """
    network, memory = config.backbone, config.memory
    for name, given in (("pretrained", network.pretrained), ("frozen", network.frozen)):
        if given and not network.own:
            raise ConfigError(
                f"{name} was given with backbone {network.name}, which is built in: it is for "
                "timm:NAME and MODULE:FUNCTION. Parts of any backbone are frozen by --layer-rates."
            )
    normalisation = config.preset().normalisation
    channels, size = pool.images.shape[2], pool.images.shape[-1]
    generator = torch.Generator().manual_seed(config.run.seed)
    backbone: Conv4 | ResNet12 | PerTask
    if network.own:
        if source is None:
            raise ConfigError(f"backbone {network.name} is not built in: give it as source.")
        net = made(source, name=network.name, channels=channels, size=size, seed=config.run.seed)
        if network.frozen:
            net.requires_grad_(False).eval()
        backbone = PerTask(
            net,
            channels=channels,
            size=size,
            normalisation=normalisation,
            recompute=memory.recompute,
        )
    elif network.name == "resnet12":
        backbone = ResNet12(
            channels=channels,
            size=size,
            normalisation=normalisation,
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
            normalisation=normalisation,
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
    ways = {shape.fewest_way for shape in (config.train, config.test)}
    if HEAD in own and not ways <= {None, config.train.way}:
        raise ConfigError(
            f"method {config.method.name} learns an initial head for {config.train.way} classes, "
            "and can't be used with episodes whose number of classes varies: leave fewest_way out, "
            "or choose a method whose heads start at 0 (memory-reduced-exact, itd-bio, r2d2, "
            "protonet)."
        )
    freeze(model, config.optimisation.layer_rates)
    if config.optimisation.steps > 0 and not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(
            f"backbone {network.name} is frozen, and method {config.method.name} learns nothing "
            "beside it: give --steps 0, which tests it as it is, or a method with variables of its "
            "own (r2d2)."
        )
    asked = network.channels_last
    faster = channels_last_is_faster(backbone, method, device)
    lay_out(model, channels_last=faster if asked is None else asked)
    return model


def recorded(config: TrainConfig, model: Model) -> dict[str, Any]:
    """The backbone's name, its normalisation and the number of learned parameters, for records.

    The name of a backbone that is not built in goes with the digest of its structure.
    """
    name, normalisation = str(config.backbone), str(config.preset().normalisation)
    backbone = model.backbone
    if isinstance(backbone, PerTask):
        name, normalisation = f"{name}, structure {backbone.structure}", backbone.statistics
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"backbone": name, "normalisation": normalisation, "parameters": learned}


def build_optimiser(preset: Preset, model: Model) -> torch.optim.Optimizer:
    """The optimiser of the upper step: of all parameters that are not frozen."""
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[preset.optimiser]
    groups = [
        {"params": parameters, "lr": factor * preset.learning_rate}
        for factor, parameters in grouped(model, preset.layer_rates).items()
    ]
    # an optimiser asks for a parameter, though none may be learned
    nothing = {"params": [nn.Parameter(torch.zeros(0))]}
    found: torch.optim.Optimizer = kind(groups or [nothing], lr=preset.learning_rate)
    return found


def channels_last_is_faster(backbone: nn.Module, method: Method, device: torch.device) -> bool:
    """Choose the memory layout, as far as it was measured (docs/performance.md).

    On a CPU a Conv4's pass takes half the time channels-last, most of it saved in pooling and
    normalisation, whose second derivatives are the faster channels-first. ResNet-12 and CUDA were
    not measured.
    """
    if isinstance(method, Maml | ImplicitMaml) and not isinstance(method.lower.adjoint, Detached):
        return False  # differentiates the network twice
    return device.type == "cpu" and isinstance(backbone, Conv4)


def lay_out(model: nn.Module, *, channels_last: bool) -> None:
    """Put the convolutions, and with them their images, channels-last or channels-first.

    Args:
        model: holds the convolutions; changed in place.
        channels_last: the layout; False: channels-first.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=layout)
