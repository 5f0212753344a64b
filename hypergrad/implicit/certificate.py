"""The certificate of a hypergradient: how far from exact it can be, level by level."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypergrad.constants import Constants, Known, conclude
from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.implicit.active import ActiveSet
from hypergrad.implicit.curvature import Curvature, Hessian
from hypergrad.implicit.probe import WRONG
from hypergrad.linear.solution import LinearSolver, Solution, Status, remedy
from hypergrad.linear.vectors import norm
from hypergrad.lower.minimum import LowerSolver, RootSolver
from hypergrad.tree import Tree, leaves, like, unflatten

# A phi whose Newton step is longer than this share of it is called no minimiser. The hypergradient
# is off by about the same share, times how fast it turns (docs/theory.md, section 10).
NEAR = 0.002


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim on phi: what it is said to be.

    Attributes:
        noun: such as "minimiser of the lower objective".
        residual: quantity that is zero there.
        solution: the noun in one word.
    """

    noun: str
    residual: str
    solution: str


MINIMISER = Claim("minimiser of the lower objective", "|d g/d phi|", "minimiser")
STATIONARY = Claim("stationary point of the objective", "|d L/d phi|", "stationary point")
ROOT = Claim("root of the condition", "|F|", "root")


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """The evidence on a hypergradient, for each task.

    A hypergradient is exact where phi minimises the lower objective and v solves the adjoint
    system ``H v = d f/d phi``. Both are measured here, after the fact.

    Attributes:
        stationarity: ``(*batch,)`` ``|d g/d phi|`` at the phi that was differentiated; of an
            equation ``|F|``: F stands for ``d g/d phi``, and ``dF/dphi`` for H, below, too.
        predicted_error: ``(*batch,)`` ``<v, d g/d phi>``: to first order ``f(phi) - f(phi*)``, in
            the units of f (docs/theory.md, section 10).
        newton_step: ``(*batch,)`` a lower bound on ``|H^-1 d g/d phi| / |phi|``, the length of the
            step to the minimiser relative to phi, to first order; no unit changes it.
        adjoint: the adjoint system's solution v with its evidence.
        cotangent_norm: ``(*batch,)`` ``|d f/d phi|``, which ``adjoint.residual`` is relative to.
        curvature: second derivatives of the adjoint system, and the share of the data on which the
            solver's products were taken: ``Subsampled(blocks=2)``, say. ``adjoint.residual`` is on
            all data in any case.
        solver: solved the adjoint system; where none was given, what was chosen.
        phi: the tree that v is like, for :attr:`v`.
        active: the evidence on the active set, of a condition with bounds or kinks; None of a
            smooth objective.
        claim: claim about phi.
        by: found phi, if :func:`argmin` did.
        lower_converged: ``(*batch,)`` true where the lower solver met its tolerance; None if it
            had none, or phi came from elsewhere.
        second_derivative_error: ``(*batch,)`` a lower bound on how far ``H v`` and ``J v`` are from
            central differences of the gradient along v, relative to themselves. Of an equation
            ``A' v`` and ``(dF/dtheta)' v``, and differences of F. None where it was not probed
            (see :class:`Hessian`).
    """

    stationarity: Float[Tensor, "*batch"]
    predicted_error: Float[Tensor, "*batch"]
    newton_step: Float[Tensor, "*batch"]
    adjoint: Solution
    cotangent_norm: Float[Tensor, "*batch"]
    curvature: Curvature
    solver: LinearSolver
    phi: Tree
    active: ActiveSet | None = None
    claim: Claim = MINIMISER
    by: LowerSolver | RootSolver | None = None
    lower_converged: Bool[Tensor, "*batch"] | None = None
    second_derivative_error: Float[Tensor, "*batch"] | None = None

    @property
    def v(self) -> Tree:
        """The adjoint v as a tree like phi: a first guess (``start=``) at a later upper step."""
        return like(self.phi, unflatten(self.adjoint.x, leaves(self.phi)))

    @property
    def at_minimiser(self) -> Bool[Tensor, "*batch"]:
        """True where phi is a minimiser as far as the evidence goes, for each task."""
        near = self.newton_step <= NEAR
        if self.active is not None:
            near = near & ~self.active.wrong
        return near if self.lower_converged is None else near & self.lower_converged

    @property
    def second_derivatives_right(self) -> Bool[Tensor, "*batch"]:
        """True where nothing is known against the second derivatives, for each task."""
        error = self.second_derivative_error
        return torch.ones_like(self.at_minimiser) if error is None else error <= WRONG

    @property
    def solved(self) -> Bool[Tensor, "*batch"]:
        """True where both levels were solved, with the right derivatives and a firm active set."""
        solved = self.adjoint.converged & self.at_minimiser
        if self.active is not None:
            solved = solved & self.active.decided
        if self.second_derivative_error is not None:
            solved = solved & self.second_derivatives_right
        return solved

    def bound(self, constants: Constants) -> Known:
        """Bound on the distance of each task's hypergradient from the exact one: ``(*batch,)``.

        theory.md, Theorem B (a posteriori): with eps = ``|d g/d phi|`` and r = ``d f/d phi - H v``,

            |h - grad F| <= (lam12 + rJ |v|) eps/mu + (L12/mu) ((lam22 + rH |v|) eps/mu + |r|).

        Holds for any v, whoever solved for it, and however many steps were taken. ``lam12`` and
        ``lam22`` are those of the f whose derivative was pulled back: ``hypergradient`` pulls back
        each f_i itself, ``loss.mean()`` over T tasks behind ``attach`` pulls back f_i/T. The error
        of a mean over tasks is at most the bound's mean.

        The bound is a statement on exact arithmetic; rounding moves either side by about
        ``eps kappa`` times the size of the gradients' terms (theory.md, section 6).

        Args:
            constants: constants of the problem at this theta.

        Returns:
            Proven if all six constants are, else Estimated.

        Raises:
            InputError: a constant does not have one value for each task; or the curvature is not
                the Hessian, whose residual nobody measured.
            NotFiniteError: a task's bound is NaN or infinite, which bounds nothing.
        """
        if not isinstance(self.curvature, Hessian):
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
        require_finite(value, "the bound on the hypergradient's error", per_task=True)
        return conclude(value, mu, coupling, upper_coupling, upper_smoothness, rJ, rH)

    def __str__(self) -> str:
        held = "" if self.active is None else self.active.words(self.phi)
        levels = (self._lower_level(), held, self._adjoint_level(), self._second_derivatives())
        parts = [part for part in levels if part]
        return " ".join(parts) or f"all {self.adjoint.status.numel()} tasks solved at both levels."

    def _lower_level(self) -> str:
        """The words on tasks whose phi is no minimiser; empty if there is none."""
        bad = ~self.at_minimiser
        if self.active is not None:
            bad = bad & ~self.active.wrong  # which has words of its own
        if not bool(bad.any()):
            return ""
        step = torch.where(bad, self.newton_step.nan_to_num(nan=float("inf")), -1.0).reshape(-1)
        worst = int(step.argmax())
        reason = (
            "it ended above its own tolerance"
            if self.lower_converged is not None and not self.lower_converged.reshape(-1)[worst]
            else f"its steps ended before the {self.claim.solution}"
        )
        share = _at(self.newton_step, worst)
        away = (
            f"the {self.claim.solution} is at least {share:.1g} |phi| away"
            if math.isfinite(share)
            else f"phi is zero and the {self.claim.solution} is not"
        )
        remedy = (
            f"Check that phi is the {self.claim.solution} of this very function (a factor or a "
            "term may differ), or solve the lower level further."
            if self.by is None
            else f"{self.by}: {reason}. Allow more steps, or a smaller tolerance."
        )
        if (narrow := self._narrow) is not None and share <= torch.finfo(narrow).eps:
            remedy = (
                f"{str(narrow).removeprefix('torch.')} rounds phi by "
                f"{torch.finfo(narrow).eps:.0e} of itself: keep theta and phi in float32."
            )
        return (
            f"phi is no {self.claim.noun} in {_of(bad)}: at the worst"
            f"{_index(worst, bad)} {self.claim.residual} is {_at(self.stationarity, worst):.1e}, "
            f"{away}, and f is off by about {_at(self.predicted_error, worst):.1e}. {remedy}"
        )

    @property
    def _narrow(self) -> torch.dtype | None:
        """The dtype of phi's first leaf of 16 bits, if there is one."""
        kinds = (leaf.dtype for leaf in leaves(self.phi))
        return next((kind for kind in kinds if torch.finfo(kind).bits == 16), None)

    def _adjoint_level(self) -> str:
        """The words on adjoint systems that were not solved; empty if there is none."""
        solution = self.adjoint
        bad = ~solution.converged
        if not bool(bad.any()):
            return ""
        residual = torch.where(bad, solution.residual.nan_to_num(nan=float("inf")), -1.0)
        worst = int(residual.reshape(-1).argmax())
        status = Status(int(solution.status.reshape(-1)[worst]))
        advice = remedy(solution, worst)
        if (narrow := self._narrow) is not None and status is Status.STAGNATED:
            advice = (
                f"products in {str(narrow).removeprefix('torch.')} round by "
                f"{torch.finfo(narrow).eps:.0e} of their terms: give the solver an rtol above "
                "this residual, or keep theta and phi in float32."
            )
        return (
            f"the adjoint system was not solved in {_of(bad)}: the worst{_index(worst, bad)} has "
            f"relative residual {_at(solution.residual, worst):.1e} after {solution.matvecs} "
            f"products: {status.name}, {advice}"
        )

    def _second_derivatives(self) -> str:
        """The words on second derivatives that are wrong; empty if there is none."""
        bad = ~self.second_derivatives_right
        if self.second_derivative_error is None or not bool(bad.any()):
            return ""
        worst = int(self.second_derivative_error.reshape(-1).argmax())
        if self.claim == ROOT:
            return (
                f"the derivatives of the condition's function are wrong in {_of(bad)}: at the worst"
                f"{_index(worst, bad)} products with them differ from differences of its values by "
                f"{_at(self.second_derivative_error, worst):.0%}. An operation in it has a wrong "
                "backward (a custom autograd.Function; torch.autograd.gradcheck tells which): "
                "write it by other operations."
            )
        return (
            f"the second derivatives of the lower objective are wrong in {_of(bad)}: at the worst"
            f"{_index(worst, bad)} products with them differ from differences of its gradient by "
            f"{_at(self.second_derivative_error, worst):.0%}. An operation in it has a wrong "
            "second derivative (a custom autograd.Function that keeps intermediates, or torch's "
            "weight_norm, spectral_norm or sparse tensors): write it by other operations, or use "
            "curvature=FiniteDifference(), which needs first derivatives only."
        )


def _of(bad: Tensor) -> str:
    return "the one task" if bad.numel() == 1 else f"{int(bad.sum())} of {bad.numel()} tasks"


def _index(worst: int, bad: Tensor) -> str:
    return f", task {worst}," if bad.numel() > 1 else ""


def _at(values: Tensor, index: int) -> float:
    return float(values.reshape(-1)[index])
