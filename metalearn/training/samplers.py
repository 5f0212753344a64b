"""The data of a run, and the episodes it draws from them."""

from __future__ import annotations

import torch

from metalearn.config.train import Protocol, TrainConfig
from metalearn.data import (
    Identity,
    Split,
    glyph_pool,
    glyphs_identity,
    prepared_identity,
    prepared_pool,
)
from metalearn.runs.records import EVALUATION_SEED
from metalearn.tasks.augmentation import Augmentation, Photo
from metalearn.tasks.episodes import GLYPH_JITTER, Sampler


def identity(config: TrainConfig) -> Identity:
    """The data of a run, checked.

    Raises:
        DataError: the images can't be rendered, read, or were changed since they were prepared.
    """
    if config.data == "glyphs":
        return glyphs_identity()
    return prepared_identity(config.data, root=config.data_root)


def training_sampler(config: TrainConfig, *, device: torch.device) -> Sampler:
    """The training episodes of a run.

    Raises:
        EpisodeError: the split has too few classes or images.
        DataError: the images can't be rendered or read.
    """
    return _sampler("train", config.train, config, seed=config.seed, device=device)


def evaluation_sampler(split: Split, config: TrainConfig, *, device: torch.device) -> Sampler:
    """The validation or test episodes of a run; see `training_sampler`."""
    return _sampler(split, config.test, config, seed=EVALUATION_SEED, device=device)


def _sampler(
    split: Split, protocol: Protocol, config: TrainConfig, *, seed: int, device: torch.device
) -> Sampler:
    augmentation: Augmentation | None = None
    if config.data == "glyphs":
        pool, augmentation = glyph_pool(split, device=device), GLYPH_JITTER
    else:
        pool = prepared_pool(
            config.data, split, root=config.data_root, device=device, residency=config.residency
        )
        if config.data == "omniglot":
            pool = pool.rotated()
        elif config.augment and split == "train":
            # as published: 8 pixels for 84, 4 for 32
            augmentation = Photo(padding=8 if pool.images.shape[-1] >= 80 else 4)
    return Sampler(
        pool=pool,
        way=protocol.way,
        shot=protocol.shot,
        query=protocol.query,
        seed=seed,
        augmentation=augmentation,
    )
