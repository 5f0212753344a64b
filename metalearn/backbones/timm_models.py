"""Models of the package timm as backbones: `timm:NAME`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metalearn.config.choices import TIMM
from metalearn.errors import ConfigError, install_extra


class Standardised(nn.Module):
    """A network that takes images in [0, 1], and sees them less a mean and over a deviation.

    Args:
        net: the network.
        mean: mean of each channel.
        deviation: standard deviation of each channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None])

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        """Features by the network."""
        features: Tensor = self.net((images - self.mean) / self.deviation)
        return features


def timm_model(name: str) -> Callable[..., nn.Module]:
    """A function that makes the model, without its classifier and with random weights.

    Nothing is downloaded. The model sees images as its published weights do: less their mean and
    over their deviation, for grey images those of the three colours on average.

    Args:
        name: `timm:NAME`.

    Raises:
        ConfigError: timm is missing or broken, or has no such model.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"backbone {name} needs the package timm, which can't be imported ({error}): "
            f"{install_extra('timm')}."
        ) from error
    except Exception as error:  # as of a torchvision that is made for another torch
        raise ConfigError(
            f"backbone {name} needs the package timm, whose import fails "
            f"({type(error).__name__}: {error}): mend the installation of timm and torchvision."
        ) from error
    model = name.removeprefix(TIMM)
    if not timm.is_model(model):
        like = ", ".join(timm.list_models(f"*{model[:6]}*")[:5]) or "none like it"
        raise ConfigError(
            f"backbone {name} is no model of timm {timm.__version__}, which has {like}: "
            "timm.list_models() names all."
        )

    def make(channels: int, size: int) -> nn.Module:
        known: Any = timm.get_pretrained_cfg(model)
        sized = {"img_size": size} if getattr(known, "fixed_input_size", False) else {}
        net = timm.create_model(model, num_classes=0, in_chans=channels, **sized)
        used = net.pretrained_cfg
        scale = [tuple(used.get(key) or usual) for key, usual in (("mean", (0,)), ("std", (1,)))]
        if any(len(values) != channels for values in scale):
            scale = [(sum(values) / len(values),) * channels for values in scale]
        return Standardised(net, *scale)

    return make
