"""Anderson acceleration goes on with GMRES's residuals, and stalls where GMRES does.

On a linear map ``T(phi) = phi - A phi + b``, with as many differences kept as steps taken, step
k + 1 is one damped step from GMRES's k-th iterate, so long as GMRES's residual has fallen in each
step. Where it does not fall in the first step, as for every skew A, the iterates stay where the
first step led for as long as that step's difference is kept, and are not called converged.
Proofs are in theory.md, section 13.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float64

from hypergrad.conditions import FixedPoint
from hypergrad.lower.anderson import Anderson
from verification.claims.evidence import Evidence, worst
from verification.oracles.rounding import unit_roundoff
from verification.subjects.bug import Kind, source_bugs

DOUBLE = unit_roundoff()
CLAIM = "Anderson acceleration"
# Beyond it a least-squares problem that is solved by its normal equations has no digits to check.
LARGEST = 1e10

Vector = Float64[np.ndarray, " n"]
Matrix = Float64[np.ndarray, "n n"]
Found = tuple[torch.Tensor, bool]


def accelerated(
    matrix: torch.Tensor, b: torch.Tensor, start: torch.Tensor, steps: int, depth: int, s: float
) -> Found:
    """Point after so many steps, and whether it is called converged at 1e-6."""

    def map_(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return phi - matrix @ phi + theta

    by = Anderson(max_steps=steps, depth=depth, damping=s, rtol=1e-6)
    found = by.find(FixedPoint(map_), b, start)
    return found.phi, bool(found.converged)


def anderson(subject: Callable[..., Found], seed: int) -> Evidence:
    """Anderson's residuals are those of GMRES's iterates after one step more, stalls included."""
    return worst([*_falling(subject, seed), *_stalling(subject, seed)])


def _falling(subject: Callable[..., Found], seed: int) -> Iterator[Evidence]:
    """Linear maps whose ``A`` has a definite symmetric part: GMRES falls in each step (Elman)."""
    rng = np.random.default_rng([seed, 46])
    n, s = 6, float(rng.uniform(0.5, 1.0))
    skew = rng.standard_normal((n, n))
    matrix = np.eye(n) + rng.uniform(0.5, 1.5) * (skew - skew.T) / np.sqrt(n)
    b, start = rng.standard_normal(n), rng.standard_normal(n)
    for k in (1, 2, 3, 4):
        residual, condition = gmres_residual(matrix, matrix @ start - b, k, s)
        if condition > LARGEST:
            continue
        phi, _ = subject(*map(torch.tensor, (matrix, b, start)), k + 1, 5, s)
        expected = residual - s * matrix @ residual
        gap = float(np.linalg.norm(matrix @ phi.numpy() - b - expected))
        scale = float(np.linalg.norm(matrix @ start - b))
        # normal equations of k unit columns, their sums of n terms, and k + 1 images
        allowed = 100 * n * DOUBLE * condition * scale * float(np.linalg.norm(matrix, 2))
        yield Evidence(
            claim=CLAIM,
            error=gap,
            tolerance=allowed,
            scale=scale,
            where=f"s = {s:.2f}, step {k + 1}: one step from GMRES's iterate {k}",
        )


def gmres_residual(matrix: Matrix, first: Vector, k: int, s: float) -> tuple[Vector, float]:
    """Residual of GMRES after k steps, and the condition number of the normal equations.

    Those of the differences of residuals, unit columns, which span ``A`` times the Krylov space.
    """
    residuals = [first]
    basis = first[:, None]
    for _ in range(k):
        image = matrix @ basis
        residuals.append(first - image @ np.linalg.lstsq(image, first, rcond=None)[0])
        basis = np.hstack([basis, (image[:, -1] / np.linalg.norm(image[:, -1]))[:, None]])
    # f of Anderson's iterates: the start, then a damped step from each of GMRES's
    own = np.array([first, *(r - s * matrix @ r for r in residuals[:k])])
    changes = np.diff(own, axis=0)
    unit = changes / np.linalg.norm(changes, axis=1, keepdims=True)
    return residuals[k], float(np.linalg.cond(unit) ** 2)


def _stalling(subject: Callable[..., Found], seed: int) -> Iterator[Evidence]:
    """Skew ``A``: GMRES's first step gains nothing."""
    rng = np.random.default_rng([seed, 47])
    n, depth, s = 6, 4, float(rng.uniform(0.5, 1.0))
    skew = rng.standard_normal((n, n))
    matrix = (skew - skew.T) / np.sqrt(n)
    b, start = rng.standard_normal(n), rng.standard_normal(n)
    first = matrix @ start - b
    expected = first - s * matrix @ first
    scale = float(np.linalg.norm(expected))
    for steps in range(1, depth + 2):
        phi, converged = subject(*map(torch.tensor, (matrix, b, start)), steps, depth, s)
        gap = float(np.linalg.norm(matrix @ phi.numpy() - b - expected))
        yield Evidence(
            claim=CLAIM,
            error=gap if not converged else scale,
            tolerance=1000 * n * DOUBLE * scale,
            scale=scale,
            where=f"skew, s = {s:.2f}, step {steps}: where the first step led, not converged",
        )


KIND = Kind(
    "accelerated fixed points",
    accelerated,
    source_bugs(
        accelerated,
        CLAIM,
        (
            (
                "Q01",
                "iterates are combined, residuals are not",
                "lower.anderson",
                "_combined(moved - self.damping * changed, gamma)",
                "_combined(moved, gamma)",
            ),
            (
                "Q02",
                "one difference is kept, whatever the depth",
                "lower.anderson",
                "slot = steps % moved.shape[-2]",
                "slot = 0",
            ),
            (
                "Q03",
                "the damping of the step is forgotten",
                "lower.anderson",
                "mixed = self.damping * f + _combined",
                "mixed = f + _combined",
            ),
        ),
    ),
)
