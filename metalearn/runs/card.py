"""Card of a run's weights: all that is needed to use them on pictures.

The card stands as JSON in the header of the weights' safetensors file, so that it goes wherever the
file goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
from torch import Tensor

from hypergrad import __version__
from metalearn.config.schema import parse, read
from metalearn.config.train import TrainConfig, from_json, to_json
from metalearn.data.pool import Pool
from metalearn.errors import RunError
from metalearn.files import write_atomically
from metalearn.runs import provenance

_HEADER: Final = "metalearn"
# Data sets of drawings whose ink is light; a drawing on paper has dark ink.
_LIGHT_INK: Final = ("glyphs", "omniglot")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFormat:
    """Form that pictures are brought to before the backbone sees them.

    Attributes:
        side: height and width in pixels, reached by area averaging.
        channels: 1 for grey, 3 for RGB.
        inverted: True if dark is turned into light. What was learned from drawings whose ink is
            light needs drawings on white paper inverted.
        scaling: range that a stored value of 0 to 255 is mapped to.
    """

    side: int
    channels: Literal[1, 3]
    inverted: bool = False
    scaling: str = "[0, 1]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Description of trained weights.

    Attributes:
        settings: the run's settings, as in its config.json, without paths of the machine.
        pictures: format that pictures are given.
        data: name of the data set.
        classes: names of the classes that the weights were trained on.
        normalisation: statistics that normalise activations, see `Normalisation`.
        versions: versions of Python and packages, this one's among them.
    """

    settings: dict[str, Any]
    pictures: PictureFormat
    data: str
    classes: list[str]
    normalisation: str
    versions: dict[str, str]

    @staticmethod
    def of(config: TrainConfig, pool: Pool) -> Card:
        """The card of a run.

        Args:
            config: settings of the run.
            pool: its training images.
        """
        *_, channels, _, side = pool.images.shape
        return Card(
            settings=to_json(config.replace(run=None, resume=None, data_root=None)),
            pictures=PictureFormat(
                side=side,
                channels=1 if channels == 1 else 3,
                inverted=config.data.name in _LIGHT_INK,
            ),
            data=config.data.name,
            classes=list(pool.names),
            normalisation=config.preset().normalisation,
            versions=provenance.versions() | {"hypergradients": __version__},
        )

    @property
    def config(self) -> TrainConfig:
        """The run's settings.

        Raises:
            ConfigError: the settings are not those of this version.
        """
        return from_json(self.settings)


def write(path: Path, tensors: Mapping[str, Tensor], card: Card, **more: Any) -> None:
    """Write tensors with their card, and with other values that JSON can hold.

    Every tensor is made contiguous: safetensors writes memory as it lies, whatever its strides say.

    Raises:
        OSError: the folder can't be written to.
    """
    text = json.dumps({"card": asdict(card)} | more, allow_nan=False, ensure_ascii=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, metadata={_HEADER: text}))


def load(path: Path) -> tuple[dict[str, Tensor], Card, dict[str, Any]]:
    """Tensors, card and other values that `write` wrote.

    Raises:
        RunError: the file can't be read, is damaged, or has no card.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header is None:
            raise RunError(
                f"{path} says nothing of the pictures it was trained on: it was written by another "
                "program, or by an earlier version. Train again with this one."
            )
        values = parse(header)
        card = read(Card, values.pop("card"), "the card")
    except (OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} can't be read as trained weights ({error}).") from error
    except safetensors.SafetensorError as error:
        raise RunError(
            f"{path} is damaged, or no file of trained weights (.safetensors): {error}."
        ) from error
    return tensors, card, values
