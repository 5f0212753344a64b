"""Features of a frozen backbone, computed once and kept in a file, in the place of the pictures.

Shapes: D features.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from metalearn.backbones import PerTask
from metalearn.config.train import TrainConfig
from metalearn.data.cache import cache_folder
from metalearn.data.pool import Pool
from metalearn.errors import ConfigError, DamagedCacheWarning
from metalearn.files import write_atomically
from metalearn.methods import Model
from metalearn.tasks.episodes import Sampler

_FEATURES: Final = "features"
_SHA256: Final = "sha256"
_TOGETHER: Final = 256  # pictures that pass at once; part of the key, for rounding depends on it


def featured(sampler: Sampler, model: Model, config: TrainConfig) -> Sampler:
    """The sampler of the same episodes, with features in the place of pictures.

    The features are read from the cache folder if they are there, whole and of these pictures,
    weights and settings; else they are computed and written there.

    Args:
        sampler: draws pictures.
        model: holds the frozen backbone.
        config: settings of the run. Without `cache_features`, or for training episodes of a run
            without steps, the sampler is given back.

    Raises:
        ConfigError: the backbone is not frozen, or the features of a picture are not always the
            same.
        OSError: the file can't be written.
    """
    idle = sampler.pool.split == "train" and config.optimisation.steps == 0
    if not config.backbone.cache_features or idle:
        return sampler
    backbone = model.backbone
    if not isinstance(backbone, PerTask) or not config.backbone.frozen:
        raise ConfigError(
            f"cache_features was given with backbone {config.backbone.name}, which is not frozen: "
            "its features change as it learns. Give --frozen."
        )
    if backbone.mixes:
        raise ConfigError(
            f"cache_features was given with backbone {config.backbone.name}, in which the pictures "
            "of a batch meet, so that a picture has no features of its own: leave it out."
        )
    if sampler.augmentation is not None:
        raise ConfigError(
            f"cache_features was given, but the pictures of the {sampler.pool.split} split are "
            "changed at random each time: give --no-augment (and no --jitter); glyphs are always "
            "changed."
        )
    key = _key(sampler.pool, backbone, config)
    path = cache_folder() / "features" / f"{_digest(key)}.safetensors"
    features = _read(path, (sampler.pool.classes, sampler.pool.examples, backbone.features))
    if features is None:
        features = _computed(sampler.pool, model)
        _write(path, features, key)
    images = features[..., None, None]
    if sampler.pool.target is None:
        images = images.to(sampler.pool.device)
    return replace(sampler, pool=replace(sampler.pool, images=images))


def _key(pool: Pool, backbone: PerTask, config: TrainConfig) -> dict[str, Any]:
    """Everything that the features depend on."""
    pictures = hashlib.sha256(pool.images.cpu().numpy().data).hexdigest()
    weights = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        weights.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        # as bytes: numpy has no bfloat16
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "pictures": f"{tuple(pool.images.shape)} {pictures}",
        "backbone": f"{config.backbone.name}, structure {backbone.structure}",
        "weights": weights.hexdigest(),
        "precision": config.backbone.precision,
        "device": pool.device.type,
        "torch": torch.__version__,
        "together": _TOGETHER,
    }


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def _computed(pool: Pool, model: Model) -> Float[Tensor, "classes examples D"]:
    """Features of all pictures and of padding, on the CPU."""
    training = model.training
    model.eval()
    try:
        flat = pool.images.flatten(0, 1)
        found = []
        for part in flat.split(_TOGETHER):
            images = part.to(pool.device).float().div_(255)
            # without the constant, which is the head's
            found.append(model.features(images[None], len(images))[0, :, :-1].cpu())
    finally:
        model.train(training)
    features: Tensor = torch.cat(found).unflatten(0, (pool.classes, pool.examples))
    return features


def _read(path: Path, shape: tuple[int, int, int]) -> Tensor | None:
    """The features of a file; None if there is none, or, with a warning, if it is damaged."""
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            features: Tensor = file.get_tensor(_FEATURES)
            recorded = (file.metadata() or {}).get(_SHA256)
    except (OSError, safetensors.SafetensorError) as error:
        what = str(error)
    else:
        if tuple(features.shape) == shape and _bytes_digest(features) == recorded:
            return features
        what = "its content is not what was written"
    warnings.warn(
        f"the cached features in {path} are damaged ({what}): they are computed anew.",
        DamagedCacheWarning,
        stacklevel=3,
    )
    return None


def _write(path: Path, features: Tensor, key: dict[str, Any]) -> None:
    plain = features.contiguous()
    header = {_SHA256: _bytes_digest(plain), "of": json.dumps(key)}
    write_atomically(path, safetensors.torch.save({_FEATURES: plain}, metadata=header))


def _bytes_digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().data).hexdigest()
