"""The command line of `metalearn`: one command for each kind of settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, cast

import tyro
from rich.console import Console
from tyro.conf import subcommand

from metalearn.config.commands import (
    ClassifyConfig,
    CompareConfig,
    FigureConfig,
    MeasureConfig,
    PrepareConfig,
    TableConfig,
    TestConfig,
)
from metalearn.config.train import TrainConfig
from metalearn.config.yaml import settings, split_off
from metalearn.errors import MetalearnError, NotFiniteError, RankError, Stopped

_HELP: Final = """Few-shot learning by hypergradients.

`metalearn train` trains a learner and tests it. `metalearn test RUN` repeats the recorded test, or
tests otherwise (`metalearn evaluate` is the same). `metalearn classify` answers for your pictures.
`metalearn prepare DATASET` prepares a data set.
Every command lists its options with --help; --version prints the version.

The settings of train, compare and measure can also come from a YAML file, with --config FILE.
Options given beside it override the file's."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an error ends with its message and exit status 1, Ctrl-C with 130.

    Args:
        arguments: by default those of the process.
    """
    try:
        _run(_parse(list(sys.argv[1:] if arguments is None else arguments)))
    except BrokenPipeError:  # nobody reads what is printed
        # Python writes what is left at its exit: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Stopped as stopped:
        if _leads():
            _say(f"stopped: {stopped}")
        sys.exit(stopped.status)
    except (RankError, NotFiniteError) as error:  # the same on all ranks
        if _leads():
            _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except MetalearnError as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
    except OSError as error:
        _say(f"OSError: {error}. A run can be resumed from its last checkpoint (--resume).")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted: a run can be resumed from its last checkpoint (--resume).")
        sys.exit(130)


def _parse(given: list[str]) -> object:
    """The settings of the command that is asked for; help and version are printed, and exit.

    Raises:
        ConfigError: the settings can't work.
        BrokenPipeError: nobody reads the help.
    """
    if given == ["--version"]:
        from hypergrad import __version__

        Console().print(f"metalearn {__version__}", highlight=False)
        sys.exit()
    if given[:1] == ["evaluate"]:
        given[0] = "test"
    rest, file = split_off(given)
    usual = TrainConfig() if file is None else settings(file)
    try:
        return tyro.cli(cast(Any, _commands(usual)), args=rest, prog="metalearn", description=_HELP)
    finally:
        sys.stdout.flush()


def _run(command: object) -> None:
    """Run the command that the settings are for; only its own modules are imported.

    Raises:
        MetalearnError: a setting, a file or a result can't be used.
    """
    from hypergrad.errors import HypergradError

    try:
        _of(command)(command, console=Console())
        sys.stdout.flush()
    except HypergradError as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)


def _of(command: object) -> Callable[..., object]:
    """The function that runs a command."""
    match command:
        case TrainConfig():
            from metalearn.training.loop import train

            return train
        case TestConfig():
            from metalearn.cli.test import test

            return test
        case ClassifyConfig():
            from metalearn.cli.classify import classify

            return classify
        case CompareConfig():
            from metalearn.cli.compare import compare

            return compare
        case MeasureConfig():
            from metalearn.cli.measure import measure

            return measure
        case FigureConfig():
            from metalearn.cli.report import figure

            return figure
        case TableConfig():
            from metalearn.cli.report import table

            return table
        case PrepareConfig():
            from metalearn.data.prepare import prepare

            return prepare
    raise AssertionError(command)


def _commands(usual: TrainConfig) -> object:
    """The union of all commands' settings, from which tyro makes the command line."""
    compare, measure = CompareConfig(settings=usual), MeasureConfig(settings=usual)
    return (
        Annotated[TrainConfig, subcommand("train", default=usual)]
        | Annotated[TestConfig, subcommand("test")]
        | Annotated[ClassifyConfig, subcommand("classify")]
        | Annotated[CompareConfig, subcommand("compare", default=compare)]
        | Annotated[MeasureConfig, subcommand("measure", default=measure)]
        | Annotated[FigureConfig, subcommand("figure")]
        | Annotated[TableConfig, subcommand("table")]
        | Annotated[PrepareConfig, subcommand("prepare")]
    )


def _leads() -> bool:
    """True if this process prints what all ranks know."""
    return os.environ.get("RANK", "0") == "0"


def _say(message: str) -> None:
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
