"""The commands: `metalearn train`, `metalearn evaluate --run RUN`, `metalearn prepare DATASET`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, cast

import tyro
from rich.console import Console

from hypergrad.errors import HypergradError
from metalearn.config import EvaluateConfig, TrainConfig
from metalearn.data.prepare import PrepareConfig, prepare
from metalearn.errors import MetalearnError
from metalearn.reproduce import reproduce
from metalearn.train import train

Command: TypeAlias = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[PrepareConfig, tyro.conf.subcommand("prepare")]
)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a refusal ends with its message and exit status 1.

    Args:
        arguments: by default those of the process.
    """
    console = Console()
    try:
        command = tyro.cli(
            cast(Any, Command), args=arguments, prog="metalearn", description=__doc__
        )
        if isinstance(command, TrainConfig):
            train(command, console=console)
        elif isinstance(command, PrepareConfig):
            prepare(command, console=console)
        else:
            reproduce(command, console=console)
    except (MetalearnError, HypergradError) as error:
        Console(stderr=True).print(
            f"{type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)
