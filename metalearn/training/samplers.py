"""The data of a run, and the episodes it draws from them."""

from __future__ import annotations

import torch

from metalearn.config.groups import EpisodeShape
from metalearn.config.train import EVALUATION_SEED, TrainConfig
from metalearn.data import (
    Identity,
    Split,
    glyph_pool,
    glyphs_identity,
    prepared_identity,
    prepared_pool,
)
from metalearn.tasks.augmentation import Augmentation, Photo
from metalearn.tasks.episodes import GLYPH_JITTER, Sampler


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
    )
