"""Settings from a YAML file, which the command line then overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from metalearn.config.choices import TIMM
from metalearn.config.train import TrainConfig, from_json, to_json
from metalearn.errors import ConfigError

_OPTION: Final = "--config"
_COMMANDS: Final = ("train", "compare", "measure")


def split_off(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config FILE` (or `--config=FILE`), and that file.

    Raises:
        ConfigError: the option is given twice, or without a file.
    """
    rest: list[str] = []
    found: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == _OPTION:
            found.append(next(waiting, ""))
        elif argument.startswith(f"{_OPTION}="):
            found.append(argument.removeprefix(f"{_OPTION}="))
        else:
            rest.append(argument)
    if found and (not rest or rest[0] not in _COMMANDS):
        raise ConfigError(f"{_OPTION} is for {', '.join(_COMMANDS)}; the others train nothing.")
    if len(found) > 1 or "" in found:
        raise ConfigError(f"{_OPTION} was given {found}: give it once, with a file.")
    return rest, Path(found[0]) if found else None


def settings(path: Path) -> TrainConfig:
    """The settings a YAML file gives, and the usual ones where it gives none.

    Raises:
        ConfigError: the file can't be read, is no YAML mapping, or names an unknown setting.
    """
    import yaml  # only where there is a file: --help needs none

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"the settings in {path} can't be read: {error}.") from error
    if not isinstance(given, dict):
        raise ConfigError(
            f"{path} should map settings to values, as in `l2: 0.01`; it is {given!r}."
        )
    found = from_json(_merged(to_json(TrainConfig()), given, str(path)))
    if found.backbone.own and not found.backbone.name.startswith(TIMM):
        raise ConfigError(
            f"{path} names the backbone {found.backbone.name}, which is code: no file makes this "
            "program run code, so name it on the command line, by --backbone."
        )
    return found


def _merged(usual: dict[str, Any], given: dict[Any, Any], where: str) -> dict[str, Any]:
    unknown = sorted(str(name) for name in given.keys() - usual.keys())
    if unknown:
        raise ConfigError(f"{where} names unknown settings {unknown}: known are {sorted(usual)}.")
    return usual | {
        name: _merged(usual[name], value, f"{where}, {name}")
        if isinstance(usual[name], dict) and isinstance(value, dict)
        else value
        for name, value in given.items()
    }
