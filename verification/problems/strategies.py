"""Hypothesis strategies for the exact families.

Only what reads well is drawn: sizes, condition number, batch shape and a seed; the arrays follow
from them. A failing example shrinks to few variables, one task, a small condition number and a
small seed, and is printed as the call that makes it:

    quad(seed=0, batch=(), p=1, q=2, condition=10.0)
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from hypothesis import strategies as st

from verification.problems import drawn as instances
from verification.problems.base import Batch
from verification.problems.drawn import Instance

Sizes: TypeAlias = tuple[int, int]  # least and largest


def seeds() -> st.SearchStrategy[int]:
    """Seeds of NumPy's generator."""
    return st.integers(0, 2**32 - 1)


def batches(*, largest: int = 3) -> st.SearchStrategy[Batch]:
    """Batch shapes (), (T,) and (S, T)."""
    size = st.integers(1, largest)
    return st.one_of(st.just(()), st.tuples(size), st.tuples(size, size))


def conditions(largest: float, *, least: float = 1.0) -> st.SearchStrategy[float]:
    """Condition numbers from `least` to `largest`, both included, a tenth of a decade apart.

    They shrink to `least`, and hypothesis favours both ends. Where a claim needs them log-uniform
    it draws from a seed: `verification.problems.drawn.of_family`.
    """
    tenths = math.ceil(10 * math.log10(largest / least))
    return st.integers(0, tenths).map(lambda k: float(min(least * 10 ** (k / 10), largest)))


def quads(
    *,
    p: Sizes = (1, 6),
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """Quad instances with sizes in these ranges and condition numbers up to `condition`."""
    return _drawn(instances.quad, q, conditions(condition), batch, p=st.integers(*p))


def lcs(
    *,
    p: Sizes = (1, 6),
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """LC instances with sizes in these ranges and condition numbers up to `condition`."""
    return _drawn(instances.lc, q, conditions(condition), batch, p=st.integers(*p))


def exps(
    *,
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """Exp instances with p = q in this range and condition numbers up to `condition`."""
    return _drawn(instances.exp, q, conditions(condition, least=2.0), batch)


def logs(
    *,
    q: Sizes = (1, 8),
    condition: float = 1e6,
    batch: st.SearchStrategy[Batch] | None = None,
) -> st.SearchStrategy[Instance]:
    """Log instances with p = q in this range and condition numbers up to `condition`."""
    return _drawn(instances.log, q, conditions(condition, least=2.0), batch)


def heads(
    *, condition: float = 1e3, batch: st.SearchStrategy[Batch] | None = None
) -> st.SearchStrategy[Instance]:
    """Softmax heads on drawn features, with condition numbers up to `condition`."""
    return st.builds(
        instances.head,
        seed=seeds(),
        batch=batches() if batch is None else batch,
        way=st.integers(2, 3),
        shot=st.integers(1, 2),
        features=st.integers(1, 3),
        condition=conditions(min(condition, 1e3), least=2.0),
    )


def anything(
    *, condition: float = 1e6, batch: st.SearchStrategy[Batch] | None = None
) -> st.SearchStrategy[Instance]:
    """An instance of any family."""
    return st.one_of(
        *(drawn(condition=condition, batch=batch) for drawn in (quads, lcs, exps, logs, heads))
    )


def _drawn(
    make: Callable[..., Instance],
    q: Sizes,
    condition: st.SearchStrategy[float],
    batch: st.SearchStrategy[Batch] | None,
    **more: st.SearchStrategy[int],
) -> st.SearchStrategy[Instance]:
    return st.builds(
        make,
        seed=seeds(),
        batch=batches() if batch is None else batch,
        q=st.integers(*q),
        condition=condition,
        **more,
    )
