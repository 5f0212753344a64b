"""Planted bugs, each with the claim that must notice it, and the kinds of subject they are in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verification.subjects.planting import InSource, SourceBug


@dataclass(frozen=True)
class Bug:
    """A subject with a bug.

    Attributes:
        name: short, unique within its kind.
        what: the bug in words.
        claim: name of the claim that must notice; others may.
        subject: an implementation that has the bug.
    """

    name: str
    what: str
    claim: str
    subject: Any

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


@dataclass(frozen=True)
class Kind:
    """A kind of subject, which some claims are functions of.

    Attributes:
        name: the kind in words.
        honest: the subject that every claim must hold for.
        bugs: the subjects each of which some claim must not hold for.
    """

    name: str
    honest: Any
    bugs: tuple[Bug, ...]


def in_source(honest: Callable[..., Any], *changes: tuple[str, str, str]) -> InSource:
    """The honest subject on changed source: (module below hypergrad, old text, new text) each."""
    return InSource(
        tuple(SourceBug(f"hypergrad.{module}", old, new) for module, old, new in changes), honest
    )


def source_bugs(
    honest: Callable[..., Any], claim: str, rows: tuple[tuple[str, str, str, str, str], ...]
) -> tuple[Bug, ...]:
    """Bugs of one changed place each, all for one claim: (name, what, module, old, new)."""
    return tuple(
        Bug(name, what, claim, in_source(honest, (module, old, new)))
        for name, what, module, old, new in rows
    )
