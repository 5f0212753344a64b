"""Solution and differentiation of the lower level: the two presets of the paper's method.

One upper step runs the backbone forward once and backward once, whatever the lower level costs:
the lower level only sees the features, and its minimiser is an ordinary value of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypergrad import CG, Adjoint, GradientDescent, Implicit, LowerSolver, Newton, Woodbury

PAPER_STEPS: Final = 20
PAPER_STEP_SIZE: Final = 0.05
PAPER_ADJOINT_STEPS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lower:
    """Solver and adjoint of a method's lower level.

    Attributes:
        by: the solver of training.
        adjoint: differentiates its result.
        test: the solver of testing; None: as in training.
    """

    by: LowerSolver
    adjoint: Adjoint
    test: LowerSolver | None = None

    @property
    def testing(self) -> LowerSolver:
        """The solver of testing."""
        return self.test or self.by


def paper(
    *,
    steps: int = PAPER_STEPS,
    step_size: float = PAPER_STEP_SIZE,
    adjoint_steps: int = PAPER_ADJOINT_STEPS,
) -> Lower:
    """Algorithm 1 with the published script's numbers: K = 20 steps of 0.05, N = 20 CG steps."""
    return Lower(
        by=GradientDescent(max_steps=steps, step_size=step_size),
        adjoint=steps_of_cg(adjoint_steps),
    )


def steps_of_cg(adjoint_steps: int = PAPER_ADJOINT_STEPS) -> Implicit:
    """N steps of conjugate gradients, which the host need not wait for."""
    return Implicit(CG(rtol=0.0, max_steps=adjoint_steps, check_every=None))


def direct() -> Implicit:
    """The adjoint of a linear head by Woodbury's identity, in the space of its examples.

    The tolerance is what float32 reaches up to a condition of 1e-4 / 1.2e-7 = 800; beyond, `watch`
    says so.
    """
    return Implicit(Woodbury(rtol=1e-4, refinements=1))


def exact(*, rtol: float = 3e-5) -> Lower:
    """The minimiser by damped Newton and the adjoint by CG, each to `rtol`.

    A float32 residual sinks to about 1.8 u (|H| |v| / |b| + 1), u = 6e-8 (theory.md, section 6).
    That is at most 1e-7 times the condition number, here about |feature|^2 / (2 l2), but |v| is far
    below |b| / mu when b has little part in the flat directions: the default suits l2 = 0.01. A
    task that cannot reach it ends as STAGNATED, is counted, and said.

    Newton's directions need no more than one digit.
    """
    return Lower(by=Newton(rtol=rtol, solver=CG(rtol=0.1)), adjoint=Implicit(CG(rtol=rtol)))
