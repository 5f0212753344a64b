"""Sources of a backbone: built in, a function that is named, or an object that is given."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from metalearn.backbones.timm_models import timm_model
from metalearn.config.choices import GIVEN, TIMM
from metalearn.errors import ConfigError

Source: TypeAlias = nn.Module | Callable[..., nn.Module]
"""A module from (N, C, H, W) to (N, D), or a function that makes one.

The function is given `channels` (C) and `size` (H and W) if it has parameters of these names.
"""

_WANTED: Final = "module:function, where the function returns a torch.nn.Module"


def imported(name: str) -> Source | None:
    """The function that `module:function` or `timm:NAME` names; None for other names.

    The current folder's modules are found, too. Importing runs the module: call this with a name
    that the user gave, never with one that was read from a file.

    Raises:
        ConfigError: there is no such function.
    """
    if ":" not in name or name.startswith(GIVEN):
        return None
    if name.startswith(TIMM):
        return timm_model(name)
    module, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # any type may come out of code that is not ours
        raise ConfigError(
            f"backbone {name} can't be loaded ({type(error).__name__}: {error}): give {_WANTED}, "
            f"in the folder that holds the module (this is {os.getcwd()})."
        ) from error
    if not callable(found):
        raise ConfigError(f"backbone {name} is a {type(found).__name__}: give {_WANTED}.")
    source: Source = found
    return source


def name_of(source: Source) -> str:
    """The name that a run records: `module:function` if that leads to it, else `given:NAME`."""
    path = getattr(source, "__qualname__", None)
    home = getattr(source, "__module__", None)
    if isinstance(source, nn.Module) or not path or not home:
        return f"{GIVEN}{type(source).__name__}"
    found: Any = sys.modules.get(home)
    for part in path.split("."):
        found = getattr(found, part, None)
    # what is in the program itself can't be imported under its name by another process
    return f"{home}:{path}" if found is source and home != "__main__" else f"{GIVEN}{path}"


def made(source: Source, *, name: str, channels: int, size: int, seed: int) -> nn.Module:
    """The module, with initial weights that follow from the seed; torch's generators stay put.

    A module that is given is copied: training leaves the caller's as it is.

    Raises:
        ConfigError: the function fails, or returns something else.
    """
    if isinstance(source, nn.Module):
        return copy.deepcopy(source)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            known = inspect.signature(source).parameters
            given = {"channels": channels, "size": size}
            found: object = source(**{k: v for k, v in given.items() if k in known})
        except ConfigError:  # of the weights that it starts from
            raise
        except Exception as error:  # any type may come out of code that is not ours
            raise ConfigError(
                f"backbone {name} raised {type(error).__name__}: {error}. It is called with those "
                "of channels and size that it has parameters for; all others need defaults."
            ) from error
    if not isinstance(found, nn.Module):
        raise ConfigError(f"backbone {name} returned {type(found).__name__}: give {_WANTED}.")
    return found


def require_confirmed(recorded: str, asked: str | None) -> None:
    """Raise if a run folder names code that the user has not named.

    A folder may come from a stranger, and no file makes this package run code. A model of timm is
    none of the folder's: its name chooses from an installed package.

    Args:
        recorded: the backbone in the run's settings.
        asked: the one that the user gave.

    Raises:
        ConfigError: with the option that is missing.
    """
    named = asked is not None and ":" in asked
    if ":" not in recorded or asked == recorded or (recorded.startswith(TIMM) and not named):
        return
    if recorded.startswith(GIVEN):
        how = "it was given in Python: give it again, as backbone=... of the same function"
    else:
        how = (
            f"that is code, which is not imported because a folder names it: add --backbone "
            f'{recorded}, or backbone="{recorded}" in Python'
        )
    beside = f", but {asked} was given" if named else ""
    raise ConfigError(f"the run's backbone is {recorded}{beside}; {how}.")


def structure(module: nn.Module) -> str:
    """Digest of a module's layers and shapes, and of what is frozen or in `eval()` mode.

    Not seen are the values of weights, and what the code of a class of one's own does.
    """
    found = hashlib.sha256()
    for name, part in module.named_modules():
        kind = type(part)
        plain = kind.__module__.startswith("torch.nn.")
        words = part.extra_repr() if plain else ""
        line = f"{name}|{kind.__module__}.{kind.__qualname__}({words})|{part.training}\n"
        found.update(line.encode())
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    for name, value in module.state_dict().items():
        shape = f"{name}|{tuple(value.shape)}|{value.dtype}|{name in frozen}\n"
        found.update(shape.encode())
    return found.hexdigest()[:12]
