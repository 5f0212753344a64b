"""The few-shot learner's lower level to round-off: softmax heads on drawn and on real features.

The oracle's minimiser is Newton's with dense Hessians in NumPy, down to the rounding of a gradient,
and its adjoint a dense solve; the tolerance is 1e2 u kappa Xi as for the other families.
"""

import math

import numpy as np

from verification.claims.evidence import Evidence, worst
from verification.claims.exact_solves import ExactSubject, against_exact_oracle
from verification.problems import drawn as instances
from verification.problems.base import Batch

LARGEST_CONDITION = 1e3


def c1h(subject: ExactSubject, seed: int) -> Evidence:
    """C1h: softmax heads on drawn features and on those of real images; kappa to 1e3."""
    rng = np.random.default_rng([seed, 21])
    batch: Batch = ((), (2,), (2, 2))[int(rng.integers(3))]
    way, shot, features = (int(rng.integers(*ends)) for ends in ((2, 6), (1, 4), (2, 7)))
    condition = float(math.exp(rng.uniform(math.log(2), math.log(LARGEST_CONDITION))))
    return worst(
        against_exact_oracle(
            {name: subject},
            make(
                seed=seed,
                batch=batch,
                way=way,
                shot=shot,
                features=features,
                condition=condition,
            ),
        )
        for name, make in (("drawn", instances.head), ("real", instances.real_head))
    )
