"""Refusals: each says what was given, what was expected and what to do."""

from __future__ import annotations

import signal
from pathlib import Path


def install_extra(name: str) -> str:
    """Words for how an optional part of this package is installed, as README says it."""
    return (
        f"install the extra hypergradients[{name}] (pip install '.[{name}]' in a clone of this "
        "package's repository)"
    )


class MetalearnError(Exception):
    """Base class of every refusal of this package."""


class UnsolvedWarning(UserWarning):
    """Answers from a lower level that did not meet its own tolerance."""


class DamagedCacheWarning(UserWarning):
    """A file of the cache folder that is damaged, and made anew."""


class ConfigError(MetalearnError, ValueError):
    """A setting that can't work, alone or with another one."""


class EpisodeError(MetalearnError, ValueError):
    """Episodes that the images can't provide."""


class DataError(MetalearnError, RuntimeError):
    """Images that can't be rendered, stored or read."""


class LearnerError(MetalearnError, ValueError):
    """Pictures or labels that a learner can't use, or a question before `fit`."""


class NotFiniteError(MetalearnError, ArithmeticError):
    """A loss, an answer or what is on the way to a hypergradient that is NaN or infinite."""


class MemoryExhaustedError(MetalearnError, RuntimeError):
    """An upper step that needs more memory than there is."""


class RankError(MetalearnError, RuntimeError):
    """Error of one rank of several, raised on all of them."""


class LostRankError(MetalearnError, RuntimeError):
    """A rank that the others waited for in vain."""


class Stopped(MetalearnError):
    """A run that a signal stopped between two upper steps, with its state saved.

    Attributes:
        status: exit status of the process.
    """

    def __init__(self, asked: signal.Signals, step: int, folder: Path, option: str) -> None:
        self.status = 128 + asked
        super().__init__(
            f"{asked.name} after {step} upper steps; the state is saved. Continue with: "
            f"metalearn train --resume {folder}{option}"
        )


class RunError(MetalearnError, RuntimeError):
    """A run folder that can't be written, read or reproduced."""
