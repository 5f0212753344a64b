"""The data of quadratics with bounds, kinks and equations, without the library that solves them."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float64

Condition: TypeAlias = Literal["box", "simplex", "lasso", "equations"]


@dataclass(frozen=True)
class Kinked:
    """One task of such a problem.

    Attributes:
        kind: kind of the condition.
        Q: ``(n, n)``.
        c: ``(n,)``.
        B: ``(n, p)``.
        first: ``(n,)`` lower bounds; strengths; a total ``(1,)``; or b ``(m,)``.
        first_slope: ``(.., p)`` derivatives of these in theta.
        second: ``(n,)`` upper bounds; A ``(m, n)``; else empty.
    """

    kind: Condition
    Q: Float64[np.ndarray, "n n"]
    c: Float64[np.ndarray, " n"]
    B: Float64[np.ndarray, "n p"]
    first: Float64[np.ndarray, " m"]
    first_slope: Float64[np.ndarray, "m p"]
    second: Float64[np.ndarray, "..."]
