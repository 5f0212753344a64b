"""Whether a claim notices a planted bug, as the runner judges it."""

from __future__ import annotations

from collections.abc import Iterable

from verification.subjects.planting import SnippetError
from verification.suite.model import Entry
from verification.suite.registry import suite

SUITE = suite()
# what each statistical evaluation of a full run is allowed
SIZE = SUITE.allowance("full")


def notices(entry: Entry, bug: str, seed: int = 0) -> bool:
    """A subject that raises is noticed; a bug that could not be planted is an error."""
    try:
        return not entry.evaluate(entry.bug(bug).subject, seed, SIZE).holds
    except SnippetError:
        raise
    except Exception:
        return True


def check(name: str, *, seeds: Iterable[int], seen: str, blind: str) -> None:
    """Hold on the honest subject; notice all of `seen`; notice none of `blind`, by their names."""
    entry = SUITE.entry(name)
    for seed in seeds:
        evidence = entry.evaluate(entry.kind.honest, seed, SIZE)
        assert evidence.holds, str(evidence)
    missed = [bug for bug in seen.split() if not notices(entry, bug)]
    assert not missed, f"{name} misses {missed}"
    found = [bug for bug in blind.split() if notices(entry, bug)]
    assert not found, f"{name} should be blind to {found}"
