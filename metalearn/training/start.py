"""The weights of a file that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from metalearn.backbones.pretrained import Weights, read_weights, starting_from
from metalearn.backbones.source import Source
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError, RunError
from metalearn.files import DIGEST, digest_of
from metalearn.runs.folder import Run
from metalearn.training import checkpoint

_NET: Final = "model.backbone.net."


def from_weights(
    config: TrainConfig, source: Source | None, again: Run | None
) -> tuple[TrainConfig, Source | None]:
    """Settings that name the file by its SHA-256, and the backbone that starts from it.

    Args:
        config: settings, those of a run that is resumed its own.
        source: the backbone, if it is not built in.
        again: the run that is resumed; its weights are in its checkpoint.

    Raises:
        ConfigError: the file can't be read, or is none of weights.
        RunError: a run can't be resumed, for it has no checkpoint.
    """
    given, name, seed = config.backbone.pretrained, config.backbone.name, config.run.seed
    if again is not None and again.checkpoint.exists():
        if source is not None and config.backbone.cache_features:
            # features are computed before the checkpoint is put back
            weights = _of_checkpoint(again.checkpoint)
            source = starting_from(weights, source, name=name, seed=seed)
        return config, source
    if given is None:
        return config, source
    if again is not None:
        raise RunError(
            f"{again.folder} has no checkpoint, and records its pretrained weights as "
            f"{given[:19]} only: start a new run with --pretrained FILE."
        )
    if given.startswith(DIGEST):
        raise ConfigError(f"pretrained was given as {given}, which is a digest: give the file.")
    weights = read_weights(Path(given))
    if source is not None:
        source = starting_from(weights, source, name=name, seed=seed)
    return config.replace(pretrained=weights.digest), source


def _of_checkpoint(path: Path) -> Weights:
    """The backbone's weights in a checkpoint.

    Raises:
        RunError: the checkpoint is unreadable or damaged.
    """
    tensors, _ = checkpoint.load(path)
    net = {k.removeprefix(_NET): v for k, v in tensors.items() if k.startswith(_NET)}
    return Weights(path, digest_of(path), net)
