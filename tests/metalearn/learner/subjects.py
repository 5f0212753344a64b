"""Learners of untrained backbones, and pictures that even those tell apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from metalearn import Learner, TrainConfig
from metalearn.data import Pool
from metalearn.learner.trained import Trained
from metalearn.runs.card import Card
from metalearn.training.build import build_model

SIDE = 28


def trained(*, channels: int = 1, side: int = SIDE, **settings: Any) -> Trained:
    """Random weights with their card, as a run on folders of pictures would leave them."""
    usual = {"filters": 8, "normalisation": "group", "device": "cpu", "data": "folders"}
    config = TrainConfig().replace(**usual | settings)
    blank = torch.zeros(2, 1, channels, side, side, dtype=torch.uint8)
    pool = Pool(blank, "train", ("one", "two"))
    model = build_model(config, pool, device=torch.device("cpu"))
    return Trained.of(model.state_dict(), Card.of(config, pool))


def learner(**settings: Any) -> Learner:
    return Learner(trained(**settings))


def pictures(
    count: int, *, classes: int = 3, channels: int = 1, side: int = SIDE, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A square at one place for each class, and noise: uint8 (N, H, W, C); the classes in turn."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    drawn = generator.integers(0, 40, (count, side, side, channels)).astype(np.uint8)
    half = side // 2
    for image, label in zip(drawn, labels, strict=True):
        top, left = half * (label // 2 % 2), half * (label % 2)
        image[top : top + half, left : left + half] += 200
    return drawn, labels
