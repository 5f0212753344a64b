"""Weights that a backbone starts from, read from a file on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from metalearn.backbones.source import Source, made
from metalearn.backbones.timm_models import Standardised
from metalearn.errors import ConfigError
from metalearn.files import digest_of


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights by name, of a file.

    Attributes:
        file: the file.
        digest: `sha256:` and its SHA-256.
        tensors: tensors of the file, by name.
    """

    file: Path
    digest: str
    tensors: Mapping[str, Tensor]


def read_weights(path: Path) -> Weights:
    """Read a state dict: of safetensors, or as `torch.save` writes it.

    No code of a file runs (`weights_only`).

    Raises:
        ConfigError: the file can't be read, or holds something else.
    """
    try:
        digest = digest_of(path)
        found: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"pretrained {path} can't be read ({error}): give a file.") from error
    except Exception as error:  # torch.load raises of many types
        raise ConfigError(
            f"pretrained {path} is no file of weights ({type(error).__name__}): give safetensors, "
            "or a state dict that torch.save wrote."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ConfigError(
            f"pretrained {path} holds {type(found).__name__}, where a state dict was expected: "
            "save module.state_dict()."
        )
    return Weights(path, digest, {str(name): value for name, value in found.items()})


def starting_from(weights: Weights, source: Source, *, name: str, seed: int) -> Source:
    """The backbone, with these weights in place of its own.

    What the file holds beside them, as a classifier, is not used.

    Args:
        weights: all of the module's weights, under its own names.
        source: makes the module, or is it.
        name: name of the backbone, for messages.
        seed: seed of the initial weights, none of which is left.
    """

    def make(channels: int, size: int) -> nn.Module:
        net = made(source, name=name, channels=channels, size=size, seed=seed)
        # a file of timm's holds its model alone, a checkpoint the scale of its images, too
        target = net
        if isinstance(net, Standardised) and "mean" not in weights.tensors:
            target = net.net
        put(weights, target)
        return net

    return make


def put(weights: Weights, net: nn.Module) -> None:
    """Put weights into a module.

    Raises:
        ConfigError: a weight of the module is missing in the file, or has another shape or kind of
            number there, or values that are not finite.
    """
    wanted = net.state_dict()
    missing = [
        name
        for name in wanted
        if name not in weights.tensors and not name.endswith("num_batches_tracked")
    ]
    if missing:
        raise ConfigError(
            f"in pretrained {weights.file}, {len(missing)} of the backbone's {len(wanted)} weights "
            f"are missing, such as {missing[0]}; it has {', '.join(list(weights.tensors)[:3])}: "
            "give the weights of this backbone, under its own names."
        )
    for name, value in wanted.items():
        found = weights.tensors.get(name, value)
        if found.shape != value.shape:
            raise ConfigError(
                f"pretrained {weights.file} has {name} of shape {tuple(found.shape)}, and the "
                f"backbone for these images {tuple(value.shape)}: give weights that were trained "
                "on images of as many channels and this size, or other images."
            )
        if said := unusable(found, value):
            raise ConfigError(f"pretrained {weights.file} has {name} {said}.")
        value.copy_(found)


def unusable(found: Tensor, wanted: Tensor) -> str | None:
    """Reason why a weight can't take the place of another; None if it can, but for their shapes."""
    if _kind(found) != _kind(wanted):  # copying would drop what does not fit
        return (
            f"in {found.dtype}, and the backbone in {wanted.dtype}: give weights of "
            f"{_kind(wanted)} numbers"
        )
    if not found.isfinite().all():
        return "with NaN or inf: give weights of a training that did not fail"
    return None


def _kind(values: Tensor) -> str:
    if values.is_complex():
        return "complex"
    return "floating-point" if values.is_floating_point() else "whole"
