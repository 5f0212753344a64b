"""Linear solvers and their answers: a solution with its evidence."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import may_look
from hypergrad.linear.operator import LinearMap as LinearMap
from hypergrad.linear.operator import Operator


class Status(enum.IntEnum):
    """End of a solve: its reason, with what to do about it in :attr:`remedy`."""

    CONVERGED = 0
    OUT_OF_STEPS = 1
    STAGNATED = 2
    INDEFINITE = 3
    NOT_FINITE = 4
    DAMPED = 5
    MISREPORTED = 6

    @property
    def remedy(self) -> str:
        """Remedy for this status."""
        return _REMEDIES[self]


_REMEDIES = {
    Status.CONVERGED: "nothing to do.",
    Status.OUT_OF_STEPS: "allow more steps, loosen the tolerance, or precondition.",
    Status.STAGNATED: (
        "the residual falls no further: the tolerance is below what this precision reaches (loosen "
        "it, or use float64), the matrix is singular, and phi is not the only solution near it "
        "(regularise the lower objective, or state what else determines phi), or the solver's "
        "products are too far from the exact ones (more blocks in Subsampled)."
    ),
    Status.INDEFINITE: (
        "the Hessian is not positive definite, so phi is no strict minimiser; take more lower "
        'steps, regularise the lower objective, damp the system (CG(damping="auto")), or use '
        "GaussNewton() as curvature."
    ),
    Status.NOT_FINITE: "a product was NaN or infinite; look for an overflow in the objective.",
    Status.DAMPED: (
        "nothing to do if the damping is meant: the damped system was solved, and not the "
        "undamped one; to solve that, damp less, or regularise the lower objective itself."
    ),
    Status.MISREPORTED: (
        "the solver called a residual converged that its x does not have; mend the solver so that "
        "it recomputes the residual, or use one of hypergrad's."
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """An answer ``x`` to ``A x = b`` for each task, with its evidence.

    Attributes:
        x: ``(*batch, n)`` the last iterate.
        status: ``(*batch,)`` values of :class:`Status`.
        residual: ``(*batch,)`` ``|b - A x| / |b|``, recomputed from ``x`` by one product, never
            the recurrence's own (which sinks to zero whatever x is); 0 where b is 0.
        curvature: ``(*batch,)`` the least ``p'Ap / p'p`` met; a value <= 0 proves that A is not
            positive definite. Infinite where no product was needed.
        steps: ``(*batch,)`` steps this task took.
        matvecs: products, each serving the whole batch.
        damping: ``(*batch,)`` the multiple of the identity that was added to A, given or picked;
            None from a solver that adds none.
    """

    x: Float[Tensor, "*batch n"]
    status: Int[Tensor, "*batch"]
    residual: Float[Tensor, "*batch"]
    curvature: Float[Tensor, "*batch"]
    steps: Int[Tensor, "*batch"]
    matvecs: int
    damping: Float[Tensor, "*batch"] | None = None

    @property
    def converged(self) -> Bool[Tensor, "*batch"]:
        """True where the recomputed residual met the tolerance, for each task.

        Where damping was asked for, this is the damped system's residual, also in the status
        DAMPED, which says that the residual of A itself is above the tolerance.
        """
        return (self.status == Status.CONVERGED) | (self.status == Status.DAMPED)


def remedy(solution: Solution, task: int) -> str:
    """The advice for one task of a solution, with its numbers where they help.

    Args:
        solution: solution of all tasks.
        task: the place of the task among all of them, in row-major order.
    """
    status = Status(int(solution.status.reshape(-1)[task]))
    least = float(solution.curvature.reshape(-1)[task])
    if status is not Status.INDEFINITE or not least < 0:
        return status.remedy
    return (
        f"the Hessian has curvature {least:.2e}, so phi is no strict minimiser; take more lower "
        f"steps, regularise the lower objective, damp by more than {-least:.2e} "
        '(CG(damping="auto") picks it), or use GaussNewton() as curvature.'
    )


@runtime_checkable
class LinearSolver(Protocol):
    """Solves ``A x = b`` for every task of a batch, given products with A only."""

    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Return a solution with evidence; never raise for a failed solve, report it.

        A system of no unknowns is solved by the x that there is, and so is a batch of no tasks.

        Args:
            apply: the product with A.
            rhs: b, finite.
            start: first iterate; methods that need none ignore it.
        """
        ...


def verified(solution: Solution, operator: Operator, rhs: Float[Tensor, "*batch n"]) -> Solution:
    """The solution with the residual of its x, and MISREPORTED where it claimed a smaller one.

    A claim fails by more than rounding: past twice what was reported, and past ``sqrt(eps)``, which
    a residual's rounding, ``eps kappa`` (theory.md, section 6), exceeds only where
    kappa leaves less than half of the digits.

    Raises:
        InputError: an answer that does not have the shape of the right-hand side.
    """
    each = (solution.status, solution.residual, solution.curvature, solution.steps)
    shapes = [part.shape for part in each]
    if solution.x.shape != rhs.shape or shapes != [rhs.shape[:-1]] * len(each):
        raise InputError(
            f"the solver answered a right-hand side of shape {tuple(rhs.shape)} with x of "
            f"shape {tuple(solution.x.shape)} and status, residual, curvature and steps of "
            f"shapes {[tuple(shape) for shape in shapes]}; x must be like the right-hand "
            "side, and the rest have one value for each task."
        )
    before = operator.matvecs
    with torch.no_grad():
        true = operator.residual(rhs, solution.x)
    if (more := operator.matvecs - before) > 0:
        solution = replace(solution, matvecs=solution.matvecs + more)
    if true is solution.residual or (may_look(true) and bool((true <= solution.residual).all())):
        return solution
    allowed = (2 * solution.residual).clamp(min=torch.finfo(rhs.dtype).eps ** 0.5)
    misreported = ~(true <= allowed) & (solution.status == Status.CONVERGED)  # True for NaN, too
    return replace(
        solution,
        status=solution.status.masked_fill(misreported, Status.MISREPORTED),
        # as reported where that is no less; a NaN stays one
        residual=torch.where(true <= solution.residual, solution.residual, true),
    )


def direct(
    operator: Operator,
    x: Float[Tensor, "*batch n"],
    rhs: Float[Tensor, "*batch n"],
    *,
    rtol: float,
    curvature: Float[Tensor, "*batch"] | None = None,
) -> Solution:
    """The solution of a direct solve: x, verified by one product. No curvature is infinite."""
    residual = operator.residual(rhs, x)
    converged = residual <= rtol
    status = torch.full_like(converged, Status.CONVERGED.value, dtype=torch.int64)
    if not (may_look(converged) and (converged.all() if converged.ndim else converged)):
        status.masked_fill_(~converged, Status.STAGNATED)
        status.masked_fill_(~residual.isfinite(), Status.NOT_FINITE)
    return Solution(
        x=x,
        status=status,
        residual=residual,
        curvature=torch.full_like(residual, torch.inf) if curvature is None else curvature,
        steps=torch.ones_like(status),
        matvecs=operator.matvecs,
    )
