"""Whether a claim notices a planted bug, as the runner judges it."""

from __future__ import annotations

from collections.abc import Iterable

from verification.subjects.algorithm1 import memory_reduced
from verification.subjects.bugs import MUTANTS
from verification.subjects.planting import SnippetError
from verification.suite.convergence import ENTRIES, KINDS
from verification.suite.model import ALGORITHM, Entry
from verification.suite.registry import suite

ENTRY = {entry.name: entry for entry in ENTRIES}
HONEST = {ALGORITHM: memory_reduced} | {kind.name: kind.honest for kind in KINDS}
BUGS = {mutant.name: mutant.subject for mutant in MUTANTS}
BUGS |= {bug.name: bug.subject for kind in KINDS for bug in kind.bugs}
# what each statistical evaluation of a full run is allowed
SIZE = suite().allowance("full")


def notices(entry: Entry, bug: str, seed: int = 0) -> bool:
    """A subject that raises is noticed; a bug that could not be planted is an error."""
    try:
        return not entry.evaluate(BUGS[bug], seed, SIZE).holds
    except SnippetError:
        raise
    except Exception:
        return True


def check(name: str, *, seeds: Iterable[int], seen: str, blind: str) -> None:
    """Hold on the honest subject; notice all of `seen`; notice none of `blind`, by their names."""
    entry = ENTRY[name]
    for seed in seeds:
        evidence = entry.evaluate(HONEST[entry.kind], seed, SIZE)
        assert evidence.holds, str(evidence)
    missed = [bug for bug in seen.split() if not notices(entry, bug)]
    assert not missed, f"{name} misses {missed}"
    found = [bug for bug in blind.split() if notices(entry, bug)]
    assert not found, f"{name} should be blind to {found}"
