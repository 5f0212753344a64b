"""C8b: what an accuracy costs in all, oracle calls counted until it is reached: O(1/eps).

On Huber's F (theory.md, section 4) upper descent with eta = 1/L first meets |grad F|^2 < eps = w^2
at step L Delta/eps + 1/2, exactly. Each step costs K + N + 5 calls (see C8),
K and N the same for every eps: in all (L Delta/eps + 1/2)(K + N + 5), which a count equals or not.
"""

from collections.abc import Iterator

import numpy as np
import torch

from hypergrad import Bilevel
from verification.claims.complexity import counted
from verification.claims.evidence import Evidence, worst
from verification.claims.tight_rates import CG_STEPS, STEP_SIZE, STEPS
from verification.problems.tight import Huber, embedded
from verification.subjects.algorithm1 import Subject

HORIZONS = (3, 6, 12)  # T: eps = L Delta/(T + 1/2)


def _comparisons(subject: Subject, seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 14])
    L, gap = (float(10 ** rng.uniform(-1, 1)) for _ in range(2))
    for T in HORIZONS:
        eps = L * gap / (T + 0.5)
        psi = Huber(L=L, w=eps**0.5)
        drawn = embedded(psi, 1, rng)
        problem, upper, lower = counted(Bilevel(upper=drawn.upper, lower=drawn.lower))
        theta = np.array([(T + 1) * psi.w / L])
        phi0 = torch.full((len(drawn.A),), 0.3, dtype=torch.float64)
        # at step T the gradient is w but for rounding, at step T + 1 it is rounding
        for _ in range(2 * T + 2):
            if abs(float(psi.gradient(theta)[0])) < psi.w / 2:
                break
            h = subject(
                problem,
                torch.tensor(theta),
                phi0,
                None,
                steps=STEPS,
                max_steps=CG_STEPS,
                step_size=STEP_SIZE,
            )
            theta = theta - h.numpy() / L
        total = lower.gradients + lower.hessian + lower.cross
        total += upper.gradients  # with those in theta, of which this f has none
        expected = (L * gap / eps + 0.5) * (STEPS + CG_STEPS + 5)
        yield Evidence(
            claim="C8b total cost",
            error=abs(total - expected),
            tolerance=0.5,
            scale=expected,
            where=f"{total} calls to reach eps = {eps:.2e}, {expected:.0f} expected; T = {T}",
        )


def c8b(subject: Subject, seed: int) -> Evidence:
    """C8b: the calls until |grad F|^2 < eps are (L Delta/eps + 1/2)(K + N + 5), exactly."""
    return worst(_comparisons(subject, seed))
