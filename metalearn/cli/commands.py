"""The commands: `metalearn train`, `metalearn evaluate --run RUN`, `metalearn prepare DATASET`.

Settings of `train`, and those that the runs of `compare` and `measure` share, can come from a YAML
file, too: `metalearn train --config FILE`, which further arguments override.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import tyro
from rich.console import Console

from hypergrad.errors import HypergradError
from metalearn.cli.compare import (
    CompareConfig,
    FigureConfig,
    TableConfig,
    compare,
    figure,
    table,
)
from metalearn.cli.measure import MeasureConfig, measure
from metalearn.cli.reproduce import reproduce
from metalearn.cli.test import RetestConfig, retest
from metalearn.config.train import EvaluateConfig, TrainConfig
from metalearn.config.yaml import settings, split_off
from metalearn.data.prepare import PrepareConfig, prepare
from metalearn.errors import MetalearnError, NotFiniteError, RankError, Stopped
from metalearn.training.loop import train


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a refusal ends with its message and exit status 1, Ctrl-C with 130.

    Args:
        arguments: by default those of the process.
    """
    console = Console()
    try:
        rest, file = split_off(sys.argv[1:] if arguments is None else arguments)
        usual = TrainConfig() if file is None else settings(file)
        command = tyro.cli(
            cast(Any, _commands(usual)), args=rest, prog="metalearn", description=__doc__
        )
        _run(command, console)
    except Stopped as stopped:
        if _leads():
            _say(f"stopped: {stopped}")
        sys.exit(stopped.status)
    except (RankError, NotFiniteError) as error:  # the same on all ranks
        if _leads():
            _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except (MetalearnError, HypergradError) as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except OSError as error:
        _say(f"OSError: {error}. A run can be resumed from its last checkpoint (--resume).")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted: a run can be resumed from its last checkpoint (--resume).")
        sys.exit(130)


def _run(command: object, console: Console) -> None:
    match command:
        case TrainConfig():
            train(command, console=console)
        case EvaluateConfig():
            reproduce(command, console=console)
        case PrepareConfig():
            prepare(command, console=console)
        case RetestConfig():
            retest(command, console=console)
        case CompareConfig():
            compare(command, console=console)
        case MeasureConfig():
            measure(command, console=console)
        case FigureConfig():
            figure(command, console=console)
        case TableConfig():
            table(command, console=console)
        case _:
            raise AssertionError(command)


def _commands(usual: TrainConfig) -> object:
    """The union of all commands' settings, from which tyro makes the command line."""
    return (
        Annotated[TrainConfig, tyro.conf.subcommand("train", default=usual)]
        | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
        | Annotated[RetestConfig, tyro.conf.subcommand("test")]
        | Annotated[
            CompareConfig,
            tyro.conf.subcommand("compare", default=CompareConfig(settings=usual)),
        ]
        | Annotated[
            MeasureConfig,
            tyro.conf.subcommand("measure", default=MeasureConfig(settings=usual)),
        ]
        | Annotated[FigureConfig, tyro.conf.subcommand("figure")]
        | Annotated[TableConfig, tyro.conf.subcommand("table")]
        | Annotated[PrepareConfig, tyro.conf.subcommand("prepare")]
    )


def _leads() -> bool:
    """Whether this process says what all ranks know."""
    return os.environ.get("RANK", "0") == "0"


def _say(message: str) -> None:
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
