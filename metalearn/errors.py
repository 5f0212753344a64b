"""Refusals: each says what was given, what was expected and what to do."""

from __future__ import annotations


class MetalearnError(Exception):
    """Base class of every refusal of this package."""


class ConfigError(MetalearnError, ValueError):
    """A setting that can't work, alone or with another one."""


class EpisodeError(MetalearnError, ValueError):
    """Episodes that the images can't provide."""


class DataError(MetalearnError, RuntimeError):
    """Images that can't be rendered, stored or read."""


class NotFiniteError(MetalearnError, ArithmeticError):
    """A loss that is NaN or infinite."""


class RunError(MetalearnError, RuntimeError):
    """A run folder that can't be written, read or reproduced."""
