"""Checks that settings share, and amounts of memory as text."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final, get_args

from metalearn.errors import ConfigError
from metalearn.files import DIGEST, digest_of

_UNITS: Final = {
    "B": 1,
    **{f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), 1)},
}


def choices(kind: Any) -> tuple[str, ...]:
    """Values of a `Literal`, or of a union of several."""
    parts = get_args(kind)
    return tuple(v for part in parts for v in ((part,) if isinstance(part, str) else choices(part)))


def require_one_of(name: str, value: object, kind: Any, *, beside: str | None = None) -> None:
    """Raise unless the value is one of a `Literal`'s.

    Args:
        name: name of the setting.
        value: value of the setting.
        kind: a `Literal`, or a union of several.
        beside: other values that are allowed, for the message.

    Raises:
        ConfigError: with the values there are.
    """
    allowed = (*choices(kind), *([beside] if beside else []))
    if value not in choices(kind):
        raise ConfigError(f"{name} was given as {value!r}: it is one of {', '.join(allowed)}.")


def require_at_least(name: str, value: int | None, least: int) -> None:
    """Raise if a number is given that is below the least.

    Raises:
        ConfigError: with the number and the least.
    """
    if value is not None and value < least:
        raise ConfigError(f"{name} was given as {value}: it must be at least {least}.")


def require_positive(name: str, value: float | None) -> None:
    """Raise if a number is given that is not positive and finite.

    Raises:
        ConfigError: with the number.
    """
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} was given as {value}: it must be positive and finite.")


def parse_rate(text: str) -> tuple[str, float]:
    """Start of parameters' names and factor of their learning rate, from `NAME=FACTOR`.

    Raises:
        ConfigError: the text has another form, or the factor is negative or not finite.
    """
    name, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    if not name or not (value >= 0 and math.isfinite(value)):
        raise ConfigError(
            f"layer_rates was given {text!r}: give NAME=FACTOR with a finite factor of at least 0, "
            "as in backbone.convs.0=0.1."
        )
    return name, value


def recorded_weights(given: str | None) -> str | None:
    """Name a file of weights by its SHA-256; leave a name of that kind as it is.

    Raises:
        ConfigError: the file can't be read.
    """
    if given is None or given.startswith(DIGEST):
        return given
    try:
        return digest_of(Path(given))
    except OSError as error:
        raise ConfigError(
            f"pretrained {given} can't be read ({error}): give a file of weights."
        ) from error


def parse_bytes(text: str) -> int:
    """Bytes from text such as 2GiB, 1.5 GiB or 500MB.

    Raises:
        ConfigError: the text is no positive amount with a known unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text, re.ASCII)
    if found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise ConfigError(
            f"memory_budget was given as {text!r}: give a positive number and one of the units "
            f"{', '.join(_UNITS)}, as in 2GiB."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def require_path(name: str, value: object) -> None:
    """Raise unless this is a `Path`, or None."""
    if not (value is None or isinstance(value, Path)):
        raise ConfigError(f"{name} was given as {value!r}: give a pathlib.Path.")


def require_paths(name: str, value: object) -> None:
    """Raise unless this is a tuple of `Path`s."""
    if not (isinstance(value, tuple) and all(isinstance(path, Path) for path in value)):
        raise ConfigError(
            f"{name} was given as {value!r}: give a tuple of pathlib.Path, such as "
            "(Path('PICTURES'),)."
        )
