"""Model of a run: claims, the implementations they are put to, and planted bugs.

Claims differ in what they are functions of: an implementation of Algorithm 1, a set of linear
solvers, a way to differentiate through the lower level. Each such kind has its honest subject and
its bugs. `verification.suite.registry` lists the claims.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from verification.claims.evidence import Evidence
from verification.subjects.bug import Bug, Kind

Size: TypeAlias = Literal["small", "full"]
SIZES: tuple[Size, ...] = ("small", "full")

# False alarms of a whole run on correct code: all statistical claims and all their seeds together.
ALARMS = 1e-9
# Seeds that a planted bug is shown to a claim with.
BUG_SEEDS: Mapping[Size, int] = {"small": 1, "full": 2}


@dataclass(frozen=True)
class Entry:
    """A claim, and how often it is put to its subject.

    Attributes:
        name: short words, unique within a suite, without a comma (`--claims` divides by commas).
        statement: the claim in one line.
        kind: the kind of subject that the claim is a function of.
        evaluate: function of a subject, a seed and a size that returns evidence. The size is the
            chance of a false alarm that a statistical claim may take; the others ignore it.
        seeds: number of seeds (0, 1, ...) that the honest subject is tried with.
        statistical: True if the claim has a chance of a false alarm.
        shown: names of the bugs that the claim must notice beside those that name it. A small run
            shows it these and the blind spots only, to save time; None means all of its kind, as
            in a full run.
        blind: names of the bugs that the claim can't notice (theory.md, section 5).
    """

    name: str
    statement: str
    kind: Kind
    evaluate: Callable[[Any, int, float], Evidence]
    seeds: Mapping[Size, int]
    statistical: bool = False
    shown: tuple[str, ...] | None = None
    blind: tuple[str, ...] = ()

    def bugs(self, size: Size) -> tuple[Bug, ...]:
        """The bugs that a run of this size shows to the claim."""
        if size == "full" or self.shown is None:
            return self.kind.bugs
        named = {*self.shown, *self.blind}
        return tuple(bug for bug in self.kind.bugs if bug.name in named or bug.claim == self.name)

    def expected(self, bug: Bug) -> bool | None:
        """True if the claim must notice the bug, False if it can't, None if it may."""
        if bug.name in self.blind:
            return False
        return True if bug.claim == self.name or bug.name in (self.shown or ()) else None

    def bug(self, name: str) -> Bug:
        """The bug of this name, of the claim's kind."""
        (found,) = (bug for bug in self.kind.bugs if bug.name == name)
        return found


@dataclass(frozen=True)
class Suite:
    """Claims, each with its kind of subject."""

    entries: tuple[Entry, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of subject, each once, in the order of the claims."""
        return tuple({entry.kind.name: entry.kind for entry in self.entries}.values())

    def entry(self, name: str) -> Entry:
        """The claim of this name."""
        (found,) = (entry for entry in self.entries if entry.name == name)
        return found

    def only(self, names: tuple[str, ...]) -> "Suite":
        """The claims of these names.

        Raises:
            ValueError: no claim has one of the names.
        """
        known = [entry.name for entry in self.entries]
        if missing := set(names) - set(known):
            raise ValueError(f"no claim is called {sorted(missing)}; there are {known}.")
        return Suite(tuple(entry for entry in self.entries if entry.name in names))

    def allowance(self, size: Size) -> float:
        """The size of each single statistical evaluation: `ALARMS` by Bonferroni."""
        return ALARMS / max(1, sum(e.seeds[size] for e in self.entries if e.statistical))
