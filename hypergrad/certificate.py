"""How far from exact a hypergradient can be: its certificate, and who is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import AdjointError, AdjointWarning
from hypergrad.linear.solution import Solution, Status


@dataclass(frozen=True, slots=True)
class Certificate:
    """The two residuals that decide a hypergradient's error, for each task.

    A hypergradient is exact where phi minimises the lower objective and v solves the adjoint
    system ``H v = d f/d phi``. Both are measured here, after the fact.

    Attributes:
        stationarity: ``(*batch,)`` ``|d g/d phi|`` at the phi that was differentiated.
        adjoint: the adjoint system's solution v with its evidence.
    """

    stationarity: Float[Tensor, "*batch"]
    adjoint: Solution

    def __str__(self) -> str:
        solution = self.adjoint
        worst = int(solution.residual.nan_to_num(nan=float("inf")).argmax())
        status = Status(int(solution.status.reshape(-1)[worst]))
        tasks = solution.status.numel()
        failed = int((~solution.converged).sum())
        return (
            f"{failed} of {tasks} adjoint systems not solved; the worst"
            f"{f', task {worst},' if tasks > 1 else ''} has relative residual "
            f"{float(solution.residual.reshape(-1)[worst]):.1e} after {solution.matvecs} products "
            f"and stationarity {float(self.stationarity.reshape(-1)[worst]):.1e}: {status.name}, "
            f"{status.remedy}"
        )


Watch: TypeAlias = Callable[[Certificate], None]
"""Receives the certificate when backward runs; ``certificates.append`` collects them."""


def warn(certificate: Certificate) -> None:
    """Issue one :class:`AdjointWarning` about the worst task if a task's solve failed."""
    if not bool(certificate.adjoint.converged.all()):
        warnings.warn(f"the hypergradient is inexact: {certificate}", AdjointWarning, stacklevel=2)


def strict(certificate: Certificate) -> None:
    """Raise :class:`AdjointError` if a task's solve failed."""
    if not bool(certificate.adjoint.converged.all()):
        raise AdjointError(f"the hypergradient is inexact: {certificate}")
