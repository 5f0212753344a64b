"""What a run consists of: claims, the implementations they are put to, and planted bugs.

Claims differ in what they are functions of: an implementation of Algorithm 1, a sampler of tasks,
a way to differentiate through the lower level. Each such kind has its honest subject and its bugs.
Which claims there are is in `verification.suite.registry`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from verification.claims.evidence import Evidence

Size: TypeAlias = Literal["small", "full"]
SIZES: tuple[Size, ...] = ("small", "full")

# False alarms of a whole run on correct code: all statistical claims and all their seeds together.
ALARMS = 1e-9
# How many seeds a planted bug is shown to a claim with.
BUG_SEEDS: Mapping[Size, int] = {"small": 1, "full": 2}
# The kind of claims that are put to an implementation of Algorithm 1,
# `verification.subjects.algorithm1`.
ALGORITHM = "Algorithm 1"


@dataclass(frozen=True)
class Bug:
    """A subject with a bug.

    Attributes:
        name: short, unique within its kind.
        what: the bug in words.
        subject: an implementation that has it.
    """

    name: str
    what: str
    subject: Any


@dataclass(frozen=True)
class Kind:
    """What claims of one kind are put to.

    Attributes:
        name: of the kind.
        honest: the subject that every claim must hold for.
        bugs: the subjects each of which some claim must not hold for.
    """

    name: str
    honest: Any
    bugs: tuple[Bug, ...]


@dataclass(frozen=True)
class Entry:
    """A claim, and how often it is put.

    Attributes:
        name: short, unique within a suite.
        statement: the claim in one line.
        kind: the name of what it is put to.
        evaluate: from a subject, a seed and a size to evidence. The size is the chance of a false
            alarm that a statistical claim may take; the others have none and ignore it.
        seeds: how many of the seeds 0, 1, ... the honest subject is put to it with.
        statistical: whether it has that chance.
        shown: names of the bugs it is shown in a small run, for a claim that is slow; None means
            all of its kind, as in a full run.
    """

    name: str
    statement: str
    kind: str
    evaluate: Callable[[Any, int, float], Evidence]
    seeds: Mapping[Size, int]
    statistical: bool = False
    shown: tuple[str, ...] | None = None

    def is_shown(self, bug: Bug, size: Size) -> bool:
        """Whether a run of this size shows it this bug."""
        return size == "full" or self.shown is None or bug.name in self.shown


@dataclass(frozen=True)
class Suite:
    """Claims, and what they are put to."""

    entries: tuple[Entry, ...]
    kinds: tuple[Kind, ...]

    def entry(self, name: str) -> Entry:
        """The claim of this name."""
        (found,) = (entry for entry in self.entries if entry.name == name)
        return found

    def kind(self, entry: Entry) -> Kind:
        """What this claim is put to."""
        (found,) = (kind for kind in self.kinds if kind.name == entry.kind)
        return found

    def only(self, names: tuple[str, ...]) -> "Suite":
        """The claims of these names.

        Raises:
            ValueError: there is none of that name.
        """
        known = [entry.name for entry in self.entries]
        if missing := set(names) - set(known):
            raise ValueError(f"no claim is called {sorted(missing)}; there are {known}.")
        entries = tuple(entry for entry in self.entries if entry.name in names)
        put_to = {entry.kind for entry in entries}
        return Suite(entries, tuple(kind for kind in self.kinds if kind.name in put_to))

    def allowance(self, size: Size) -> float:
        """The size of each single statistical evaluation: `ALARMS` by Bonferroni."""
        return ALARMS / max(1, sum(e.seeds[size] for e in self.entries if e.statistical))
