"""How tight Theorems A and B are: error/bound on drawn problems, family by family, as quantiles.

That no ratio exceeds 1 is claimed by `verification.claims.error_bounds` and `certificates`, whose
worst ratio is 1, from problems on which the bounds are equalities. Here are the others.
"""

import numpy as np

from verification.claims.certificates import Certifier, certified
from verification.claims.error_bounds import FAMILIES, cases
from verification.oracles import finite, gradient
from verification.oracles.bounds import a_priori, rounding
from verification.report.curves import Series

SEEDS = 20
# Below, error and bound are both rounding; the figure has a logarithmic axis.
LEAST = 1e-8


def tightness(subject: Certifier = certified, *, seeds: int = SEEDS) -> list[Series]:
    """Sorted error/bound over the seeds, for each family; the bound allows for rounding."""
    ratios: dict[str, dict[str, list[float]]] = {
        name: {family: [] for family in FAMILIES} for name in ("A", "B")
    }
    for seed in range(seeds):
        for case in cases(seed):
            if case.name not in FAMILIES:
                continue
            family, theta, counts = case.instance.family, case.instance.theta, case.counts
            found = subject(case.instance, case.warm, **counts)
            error = float(np.linalg.norm(found.h - gradient(family, theta)))
            v0 = case.instance.v0 if case.warm else None
            start = np.zeros_like(case.instance.v0) if v0 is None else v0
            end = finite(family, theta, case.instance.phi0, start, **counts)
            bounds = {
                "A": a_priori(family, theta, case.instance.phi0, v0, **counts),
                "B": found.bound,
            }
            slack = rounding(family, theta, end.phi, end.v)
            for name, bound in bounds.items():
                ratios[name][case.name].append(error / float((bound + slack).mean()))
    shares = [(rank + 0.5) / seeds for rank in range(seeds)]
    return [
        Series(
            name=f"tightness of Theorem {name}",
            x_label="share of the drawn problems, sorted",
            y_label="error / bound",
            x=shares,
            measured={f: sorted(max(r, LEAST) for r in found) for f, found in of.items()},
            bounds={f: [1.0] * seeds for f in of},
            problem=f"{seeds} problems a family, two tasks, kappa to 1e3, random K, N, alpha; "
            f"below {LEAST:g} drawn at {LEAST:g}",
        )
        for name, of in ratios.items()
    ]
