"""What a run consists of: the claims, the implementations they are put to, and planted bugs.

Claims differ in what they are functions of: an implementation of Algorithm 1, a sampler of tasks,
a way to differentiate through the lower level. Each such kind has its honest subject and its bugs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from verification.claims import CLAIMS, Claim
from verification.claims.evidence import Evidence
from verification.mutants import MUTANTS
from verification.subjects import memory_reduced

Size: TypeAlias = Literal["small", "full"]
SIZES: tuple[Size, ...] = ("small", "full")

# False alarms of a whole run on correct code: all statistical claims and all their seeds together.
ALARMS = 1e-9
# How many seeds a planted bug is shown to a claim with.
BUG_SEEDS: Mapping[Size, int] = {"small": 1, "full": 5}
# How many seeds a claim is put with that nothing else is said about.
USUAL: Mapping[Size, int] = {"small": 20, "full": 300}


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
    """

    name: str
    statement: str
    kind: str
    evaluate: Callable[[Any, int, float], Evidence]
    seeds: Mapping[Size, int]
    statistical: bool = False


@dataclass(frozen=True)
class Suite:
    """Claims, and what they are put to."""

    entries: tuple[Entry, ...]
    kinds: tuple[Kind, ...]

    def kind(self, entry: Entry) -> Kind:
        """What this claim is put to."""
        (found,) = (kind for kind in self.kinds if kind.name == entry.kind)
        return found

    def allowance(self, size: Size) -> float:
        """The size of each single statistical evaluation: `ALARMS` by Bonferroni."""
        return ALARMS / max(1, sum(e.seeds[size] for e in self.entries if e.statistical))


ALGORITHM = "Algorithm 1"
# Seeds of the claims whose cost is known; 6 comparisons a seed (D2, D3), 5 (D6): 102 000 in full.
_SEEDS: Mapping[str, Mapping[Size, int]] = {
    name: {"small": 100, "full": 6000} for name in ("D2", "D3", "D6")
}


def _entry(name: str, claim: Claim) -> Entry:
    summary = (claim.__doc__ or name).splitlines()[0].removeprefix(f"{name}: ").rstrip(".")
    return Entry(
        name=name,
        statement=summary,
        kind=ALGORITHM,
        evaluate=lambda subject, seed, _: claim(subject, seed),
        seeds=_SEEDS.get(name, USUAL),
    )


def suite() -> Suite:
    """Every claim there is."""
    algorithm = Kind(
        name=ALGORITHM,
        honest=memory_reduced,
        bugs=tuple(Bug(mutant.name, mutant.bug, mutant.subject) for mutant in MUTANTS),
    )
    entries = [_entry(name, claim) for name, claim in CLAIMS.items()]
    return Suite(entries=tuple(entries), kinds=(algorithm,))
