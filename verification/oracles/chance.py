"""Exact chances of a sum of squares of standard normals: no interval is approximate.

theory.md, section 5. Surprise is minus the logarithm of a probability, so that a test of size a
holds if the surprise is at most ln(1/a).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

# Ratios of the true variance to the claimed one that the sequential test looks for.
RATIOS = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0, 8.0)


def surprise(total: float, dof: int) -> float:
    """-ln of the two-sided tail of chi-square with `dof` degrees at `total`."""
    tail = min(float(chi2.logcdf(total, dof)), float(chi2.logsf(total, dof)))
    return max(0.0, -(math.log(2) + tail))


@dataclass(frozen=True)
class Evalue:
    """A mixture of likelihood ratios against "these are standard normals", after some of them.

    Under the claim the mixture is a martingale of mean 1, so that by Ville's inequality it ever
    exceeds 1/a with probability at most a, whenever one stops looking.

    Attributes:
        dof: number of normals seen.
        total: the sum of their squares.
    """

    dof: int = 0
    total: float = 0.0

    def seen(self, squares: float, dof: int) -> "Evalue":
        """After `dof` more, with this sum of squares."""
        return Evalue(self.dof + dof, self.total + squares)

    @property
    def log(self) -> float:
        """Logarithm of the bound: ln mean_r r^(-n/2) exp(S (1 - 1/r)/2), r over `RATIOS`."""
        r = np.array(RATIOS)
        terms = -self.dof / 2 * np.log(r) + self.total / 2 * (1 - 1 / r)
        return float(np.logaddexp.reduce(terms) - math.log(len(r)))
