"""Hypothesis strategies for the exact families.

Only what reads well is drawn: sizes, condition number, batch shape and a seed; the arrays follow
from them. A failing example shrinks to few variables, one task, a small condition number and a
small seed, and is printed as the call that makes it:

    quad(seed=0, batch=(), p=1, q=2, condition=10.0)
"""

import math
from typing import TypeAlias

from hypothesis import strategies as st

from verification import instances
from verification.families.base import Batch
from verification.instances import Instance

Sizes: TypeAlias = tuple[int, int]  # least and largest


def seeds() -> st.SearchStrategy[int]:
    """Seeds of NumPy's generator."""
    return st.integers(0, 2**32 - 1)


def batches(*, largest: int = 3) -> st.SearchStrategy[Batch]:
    """Batch shapes (), (T,) and (S, T)."""
    size = st.integers(1, largest)
    return st.one_of(st.just(()), st.tuples(size), st.tuples(size, size))


def conditions(largest: float, *, least: float = 1.0) -> st.SearchStrategy[float]:
    """Condition numbers, log-uniform on a grid of a tenth of a decade from `least` upwards."""
    tenths = math.floor(10 * math.log10(largest / least))
    return st.integers(0, tenths).map(lambda k: float(min(least * 10 ** (k / 10), largest)))


def quads(
    *,
    p: Sizes = (1, 6),
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """Quad instances with sizes in these ranges and condition numbers up to `condition`."""
    return st.builds(
        instances.quad,
        seed=seeds(),
        batch=batches() if batch is None else batch,
        p=st.integers(*p),
        q=st.integers(*q),
        condition=conditions(condition),
    )


def lcs(
    *,
    p: Sizes = (1, 6),
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """LC instances with sizes in these ranges and condition numbers up to `condition`."""
    return st.builds(
        instances.lc,
        seed=seeds(),
        batch=batches() if batch is None else batch,
        p=st.integers(*p),
        q=st.integers(*q),
        condition=conditions(condition),
    )


def exps(
    *,
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """Exp instances with p = q in this range and condition numbers up to `condition`."""
    return st.builds(
        instances.exp,
        seed=seeds(),
        batch=batches() if batch is None else batch,
        q=st.integers(*q),
        condition=conditions(condition, least=2.0),
    )


def logs(
    *,
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """Log instances with p = q in this range and condition numbers up to `condition`."""
    return st.builds(
        instances.log,
        seed=seeds(),
        batch=batches() if batch is None else batch,
        q=st.integers(*q),
        condition=conditions(condition, least=2.0),
    )


def anything(
    *, condition: float = 1e6, batch: st.SearchStrategy[Batch] | None = None
) -> st.SearchStrategy[Instance]:
    """An instance of any family."""
    return st.one_of(
        quads(condition=condition, batch=batch),
        lcs(condition=condition, batch=batch),
        exps(condition=condition, batch=batch),
        logs(condition=condition, batch=batch),
    )
