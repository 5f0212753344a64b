"""Curvatures: choices of the second derivatives in the adjoint system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from torch import Size, Tensor

from hypergrad.errors import InputError
from hypergrad.graph import INSTEAD
from hypergrad.implicit.active import AT_KINKS, is_non_smooth
from hypergrad.implicit.differences import (
    Differences,
    length_of,
    require_length,
    step_length,
)
from hypergrad.implicit.linearise import Linearisation
from hypergrad.implicit.probe import Probe, Probing, probe_of, raise_if_always
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.objective import Objective
from hypergrad.objectives.closed_form import is_closed_form
from hypergrad.objectives.composed import Composed
from hypergrad.tree import Phi, Theta, detach, flatten, fresh_leaf, leaves, like


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """The stationarity condition linearised at one point: all that the kernel needs.

    Attributes:
        batch: the tasks' dimensions.
        values: ``(*batch,)`` g there.
        gradient: ``(*batch, n)`` d g/d phi there.
        hessian: the curvature's operator.
        cross: ``J v`` for each needed leaf of theta.
        probe: tells whether ``H v`` and ``J v`` are right; None if that is not to be asked.
        aside: a context in which the gradient is not read, and need not be kept.
    """

    batch: Size
    values: Tensor
    gradient: Tensor
    hessian: Operator
    cross: Callable[[Tensor], list[Tensor]]
    probe: Probe | None = None
    aside: Callable[[], AbstractContextManager[None]] = nullcontext

    @classmethod
    def of(
        cls,
        at: Linearisation[Any, Any],
        hessian: Operator | None = None,
        probe: Probe | None = None,
    ) -> Point:
        """By autodiff, but for a curvature of one's own."""
        own = Operator(at.product, final=at.final) if hessian is None else hessian
        aside = at.gradient_set_aside
        return cls(at.batch, at.values, at.gradient, own, at.cross, probe, aside)


@runtime_checkable
class Curvature(Protocol):
    """A way to linearise the stationarity condition."""

    def linearise(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        *,
        needed: Sequence[bool] | None = None,
    ) -> Point:
        """Linearise at ``(theta, phi)``; ``needed`` says which leaves of theta J must serve."""
        ...


@dataclass(frozen=True, slots=True)
class Hessian:
    """The Hessian itself: by double backward, or in closed form where the objective knows it.

    A closed form serves the solver's iterations; answers are judged, and the cross product taken,
    by autodiff of the objective's values.

    Attributes:
        probe: when ``H v`` and ``J v`` are compared with differences of the gradient along v, which
            takes four gradients more: "once" for a kind of objective (its code and the size of its
            graph) in each process, "always", or "never". Of an equation, products with its first
            derivatives are compared with differences of its values, by eight evaluations. What was
            found is the certificate's ``second_derivative_error``.
    """

    probe: Probing = field(default="once", kw_only=True)

    def __post_init__(self) -> None:
        if self.probe not in get_args(Probing):
            raise InputError(
                f"Hessian got probe={self.probe!r}; it is one of {', '.join(get_args(Probing))}."
            )

    def linearise(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        *,
        needed: Sequence[bool] | None = None,
    ) -> Point:
        """See :class:`Curvature`."""
        when, instead = self.probe, INSTEAD
        if is_non_smooth(lower):
            instead = AT_KINKS
            # along v a solution at a bound would leave it, and its differences see another problem
            raise_if_always(self.probe, lower)
            when = "never"
        at = Linearisation(lower, theta, phi, needed=needed, instead=instead)
        probe = probe_of(when, lower, theta, phi, batch=at.batch, needed=needed, graph=at.graph)
        if is_closed_form(lower):
            form = lower.hessian(detach(theta), detach(phi))
            return Point.of(
                at, Operator(form.product, exact=at.product, final=at.final, form=form), probe
            )
        return Point.of(at, probe=probe)


@dataclass(frozen=True, slots=True)
class GaussNewton:
    """``G = M' (d2 loss/d outputs2) M + penalty's Hessian``, M the model's Jacobian in phi.

    Positive semidefinite where loss and penalty are convex, whatever the network: CG then meets no
    negative curvature. It leaves out ``sum_j (d loss/d output_j) d2 output_j/dphi2``, so the
    hypergradient is biased unless the model is linear in phi or fits exactly. The lower objective
    must be a :class:`Composed`. A product takes three backward passes. J is the exact one.
    """

    def linearise(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        *,
        needed: Sequence[bool] | None = None,
    ) -> Point:
        """See :class:`Curvature`.

        Raises:
            InputError: the lower objective is no Composed.
        """
        if not isinstance(lower, Composed):
            raise InputError(
                f"GaussNewton needs the structure of the lower objective, and got a "
                f"{type(lower).__name__}; write it as Composed(model=..., loss=..., penalty=...)."
            )
        at = Linearisation(lower, theta, phi, needed=needed)
        return Point.of(at, Operator(_gauss_newton(lower, detach(theta), phi, at.batch)))


def _gauss_newton(lower: Composed[Theta, Phi], theta: Theta, phi: Phi, batch: Size) -> LinearMap:
    inputs = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        outputs = lower.model(theta, like(phi, inputs))
        # M v as the derivative of M'w in w, which is linear in w: any w will do
        dummy = torch.zeros_like(outputs, requires_grad=True)
        transposed = flatten(_grad(outputs, inputs, dummy, create_graph=True), batch)
        there = fresh_leaf(outputs)
        slope = _grad(lower.loss(theta, there).sum(), [there], None, create_graph=True)[0]
        penalty = torch.zeros(())
        if lower.penalty is not None:
            values = lower.penalty(theta, like(phi, inputs)).sum()
            penalty = flatten(_grad(values, inputs, None, create_graph=True), batch)

    def product(vector: Tensor) -> Tensor:
        (forward,) = _grad(transposed, [dummy], vector)
        (curved,) = _grad(slope, [there], forward)
        total = flatten(_grad(outputs, inputs, curved), batch)
        if penalty.requires_grad:
            total = total + flatten(_grad(penalty, inputs, vector), batch)
        return total

    return product


def _grad(
    outputs: Tensor, inputs: list[Tensor], weight: Tensor | None, *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    if not outputs.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in inputs)
    return torch.autograd.grad(
        outputs,
        inputs,
        weight,
        create_graph=create_graph,
        retain_graph=True,
        materialize_grads=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FiniteDifference:
    """Central differences of gradients, for operations that can't be differentiated twice.

    ``H v = [d g/d phi (phi + h v) - d g/d phi (phi - h v)] / 2h`` and likewise ``J v``, with
    ``h |v| = step length`` for each task. The error is ``O((h |v|)^2)`` times the fourth derivative
    of g, plus rounding ``u |d g/d phi| / h``: with the default step about ``u^(2/3)`` relative,
    4e-11 in float64 and 2e-5 in float32, where the Hessian changes over ``length``. A product takes
    two gradients, and can't be vectorised: `Cholesky` takes its columns one by one. Ask solvers for
    no more than that error.

    Attributes:
        step: relative step; None means the cube root of the precision of phi's coarsest leaf.
        length: distance that phi may move until the Hessian changes. None means
            ``|phi|`` for each task, which has its units whatever they are; for a task at zero, the
            longest of the other tasks.
    """

    step: float | None = None
    length: float | None = None

    def __post_init__(self) -> None:
        if self.step is not None and not 0 < self.step < 1:
            raise InputError(f"FiniteDifference got step={self.step}; it must be in (0, 1).")
        if self.length is not None and not 0 < self.length < float("inf"):
            raise InputError(
                f"FiniteDifference got length={self.length}; it must be positive and finite."
            )

    def linearise(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        *,
        needed: Sequence[bool] | None = None,
    ) -> Point:
        """See :class:`Curvature`.

        Raises:
            InputError: phi is zero and no length was given; or g has bounds or kinks.
        """
        if is_non_smooth(lower):
            raise InputError(
                f"FiniteDifference moves phi off the bounds and kinks of {type(lower).__name__}, "
                "on whose other side is another problem; use curvature=Hessian()."
            )
        at = Linearisation(lower, theta, phi, needed=needed, twice=False)
        flat = flatten(leaves(detach(phi)), at.batch)
        length = (
            require_length(length_of(flat))
            if self.length is None
            else torch.full_like(flat[..., :0].sum(-1), self.length)
        )
        by = Differences(
            lower,
            detach(theta),
            detach(phi),
            batch=at.batch,
            distance=(self.step or step_length(phi)) * length,
            needed=needed,
        )
        # products err by about the square of the step; kappa up to its inverse leaves the step
        own = Operator(by.product, accuracy=self.step or step_length(phi))
        return Point(at.batch, at.values, at.gradient, own, by.cross)
