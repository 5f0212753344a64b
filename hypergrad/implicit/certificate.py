"""How far from exact a hypergradient can be: its certificate, and who is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypergrad.constants import Constants, Known, conclude
from hypergrad.errors import AdjointError, AdjointWarning, InputError
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import norm
from hypergrad.objective import refuse_not_finite


@dataclass(frozen=True, slots=True)
class Certificate:
    """The two residuals that decide a hypergradient's error, for each task.

    A hypergradient is exact where phi minimises the lower objective and v solves the adjoint
    system ``H v = d f/d phi``. Both are measured here, after the fact.

    Attributes:
        stationarity: ``(*batch,)`` ``|d g/d phi|`` at the phi that was differentiated.
        adjoint: the adjoint system's solution v with its evidence.
        cotangent_norm: ``(*batch,)`` ``|d f/d phi|``, which ``adjoint.residual`` is relative to.
        of_hessian: whether ``adjoint.residual`` is that of the Hessian itself, and not of another
            matrix that was chosen in its place.
        lower_converged: ``(*batch,)`` whether the lower solver met its own tolerance; None if it
            had none, or phi came from elsewhere.
    """

    stationarity: Float[Tensor, "*batch"]
    adjoint: Solution
    cotangent_norm: Float[Tensor, "*batch"]
    of_hessian: bool
    lower_converged: Bool[Tensor, "*batch"] | None = None

    @property
    def solved(self) -> Bool[Tensor, "*batch"]:
        """Whether both levels met their tolerances, for each task."""
        adjoint = self.adjoint.converged
        return adjoint if self.lower_converged is None else adjoint & self.lower_converged

    def bound(self, constants: Constants) -> Known:
        """How far each task's hypergradient is from the exact one, at most: ``(*batch,)``.

        theory.md, Theorem B (a posteriori): with eps = ``|d g/d phi|`` and r = ``d f/d phi - H v``,

            |h - grad F| <= (lam12 + rJ |v|) eps/mu + (L12/mu) ((lam22 + rH |v|) eps/mu + |r|).

        Holds for any v, whoever solved for it, and however many steps were taken. ``lam12`` and
        ``lam22`` are those of the f whose derivative was pulled back: ``hypergradient`` pulls back
        each f_i itself, ``loss.mean()`` over T tasks behind ``attach`` pulls back f_i/T. The error
        of a mean over tasks is at most the bound's mean.

        The bound is a statement on exact arithmetic; rounding moves either side by about
        ``eps kappa`` times the size of the gradients' terms (theory.md, section 6).

        Args:
            constants: of the problem at this theta.

        Returns:
            Proven if all six constants are, else Estimated.

        Raises:
            InputError: a constant does not have one value for each task; or the curvature is not
                the Hessian, whose residual nobody measured.
            NotFiniteError: a task's bound is NaN or infinite, which bounds nothing.
        """
        if not self.of_hessian:
            raise InputError(
                "the adjoint system was solved with another matrix than the Hessian, whose "
                "distance from it is unknown, so that nothing bounds the error; use "
                "curvature=Hessian()."
            )
        mu, coupling = constants.strong_convexity, constants.coupling
        upper_coupling, upper_smoothness = constants.upper_coupling, constants.upper_smoothness
        rJ, rH = constants.coupling_lipschitz, constants.hessian_lipschitz
        v = norm(self.adjoint.x)
        distance = self.stationarity / mu.value  # |phi - phi*|, by strong monotonicity
        # a zero right-hand side leaves the residual absolute
        scale = torch.where(self.cotangent_norm > 0, self.cotangent_norm, 1.0)
        residual = self.adjoint.residual * scale
        direct = (upper_coupling.value + rJ.value * v) * distance
        system = (upper_smoothness.value + rH.value * v) * distance + residual  # H(phi*)(v - v*)
        value = direct + coupling.value / mu.value * system
        if value.shape != self.stationarity.shape:
            raise InputError(
                f"the constants are for tasks {tuple(value.shape)}, but the certificate is for "
                f"tasks {tuple(self.stationarity.shape)}; give one value, or one for each task."
            )
        refuse_not_finite(value, "the bound on the hypergradient's error", per_task=True)
        return conclude(value, mu, coupling, upper_coupling, upper_smoothness, rJ, rH)

    def __str__(self) -> str:
        solution = self.adjoint
        worst = int(solution.residual.nan_to_num(nan=float("inf")).argmax())
        status = Status(int(solution.status.reshape(-1)[worst]))
        tasks = solution.status.numel()
        failed = int((~solution.converged).sum())
        early = 0 if self.lower_converged is None else int((~self.lower_converged).sum())
        lower = f"{early} of {tasks} lower solves ended above their tolerance; " if early else ""
        return (
            f"{lower}{failed} of {tasks} adjoint systems not solved; the worst"
            f"{f', task {worst},' if tasks > 1 else ''} has relative residual "
            f"{float(solution.residual.reshape(-1)[worst]):.1e} after {solution.matvecs} products "
            f"and stationarity {float(self.stationarity.reshape(-1)[worst]):.1e}: {status.name}, "
            f"{status.remedy}"
        )


Watch: TypeAlias = Callable[[Certificate], None]
"""Receives the certificate when backward runs; ``certificates.append`` collects them."""


def warn(certificate: Certificate) -> None:
    """Issue one :class:`AdjointWarning` about the worst task if a task's solve failed."""
    if not bool(certificate.solved.all()):
        warnings.warn(f"the hypergradient is inexact: {certificate}", AdjointWarning, stacklevel=2)


def strict(certificate: Certificate) -> None:
    """Raise :class:`AdjointError` if a task's solve failed."""
    if not bool(certificate.solved.all()):
        raise AdjointError(f"the hypergradient is inexact: {certificate}")
