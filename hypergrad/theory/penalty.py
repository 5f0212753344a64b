"""A fully first-order hypergradient: the value-function gap as a penalty, no second derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.linear.vectors import norm
from hypergrad.lower.minimum import LowerSolver, Minimum
from hypergrad.objective import Bilevel, Objective, evaluate, examine
from hypergrad.tree import Phi, Theta, flatten, fresh_leaf, leaves, like


@dataclass(frozen=True, eq=False)
class Penalised(Generic[Theta, Phi]):
    """A first-order hypergradient with what its error depends on.

    Attributes:
        value: ``()`` ``mean_i f_i(theta, y_i*)``, as a :class:`Hypergradient` has it.
        grad: like theta, the penalised gradient; see :func:`penalty_hypergradient` for its bias.
        minimum: y*, which minimises g, with its stationarity.
        pulled: y_lambda, which minimises ``g + f/strength``, with its stationarity.
        pull: ``(*batch,)`` ``|d f/d phi(theta, y_lambda)|``.
        strength: lambda.
    """

    value: Float[Tensor, ""]
    grad: Theta
    minimum: Minimum[Phi]
    pulled: Minimum[Phi]
    pull: Float[Tensor, "*batch"]
    strength: float


def penalty_hypergradient(
    problem: Bilevel[Theta, Phi],
    theta: Theta,
    phi0: Phi,
    *,
    by: LowerSolver,
    strength: float,
) -> Penalised[Theta, Phi]:
    """The gradient of ``min_y f(theta, y) + strength (g(theta, y) - min g(theta, .))``.

    With y* the minimiser of g, y_lambda that of ``g + f/lambda``, both found by ``by`` (the second
    from the first), the gradient for each task is, by the envelope theorem,

        ``d_theta f(y_lambda) + lambda (d_theta g(y_lambda) - d_theta g(y*))``

    (Liu et al. 2022, "BOME"; Kwon et al. 2023, "F2SA"): first derivatives only, so that any
    operation with a backward will do. It is no ``adjoint=`` of :func:`argmin`: an adjoint sees g
    and a cotangent that is linear in the loss. Here f takes part in a second minimisation, in
    which the answer is not linear.

    Error. Let b = ``pull`` = ``|d_phi f(theta, y_lambda)|``. For exact y*, y_lambda, and g
    mu-strongly convex with constants as in theory.md section 0 (``s = L12/mu``), each task errs by

        ``bias <= (1/lambda) [(lam12 + s lam22) b/mu + (rJ + s rH) (b/mu)^2 / 2]``

    *Proof.* ``d = y_lambda - y*`` has ``mu |d| <= |d_phi g(y_lambda)| = b/lambda``. Expanding
    ``d_phi g`` and ``d_theta g`` at y*: ``lambda H d = -d_phi f(y_lambda) - lambda R_H``,
    ``lambda (d_theta g(y_lambda) - d_theta g(y*)) = lambda (J d + R_J)`` with ``|R_H| <= rH
    |d|^2/2``, ``|R_J| <= rJ |d|^2/2``. Subtracting ``d_theta f(y*) - J H^{-1} d_phi f(y*)`` leaves
    changes of d_theta f and d_phi f over d, and the remainders. [] For quadratics the bias is
    ``-(1/lambda) (S' f_phiphi + f_thetaphi) v* + O(1/lambda^2)`` with S = dphi*/dtheta.

    Inexact solves add ``lambda L12 (e + e_lambda)`` and more, e at most stationarity/mu: their
    tolerance must shrink faster than 1/lambda. The subtraction costs ``lambda`` times the
    rounding of d_theta g, so that a strength beyond ``eps^(-1/2)`` makes it worse again.

    Args:
        problem: f and g.
        theta: upper variable.
        phi0: start of the lower solver, leading dimensions = tasks.
        by: the lower solver, for both problems; a step size must be below
            ``2/(L + lam22/strength)``.
        strength: lambda > 0, large enough for ``g + f/strength`` to be convex near y*
            (``strength > lam22/mu`` is; any, if f is convex in phi).

    Returns:
        Value, gradient, and both minima with their stationarity.

    Raises:
        InputError: an argument or an objective can't be used.
        NotFiniteError: a value or a gradient is NaN or infinite, or a solver diverged.
    """
    if not strength > 0:
        raise InputError(f"penalty_hypergradient got strength={strength}; it must be positive.")
    examine(problem.lower, theta, phi0)

    def penalised(theta: Theta, phi: Phi) -> Tensor:
        return problem.lower(theta, phi) + problem.upper(theta, phi) / strength

    minimum = by.minimise(problem.lower, theta, phi0)
    pulled = by.minimise(penalised, theta, minimum.phi)

    direct, values, pull = _first(problem.upper, theta, pulled.phi, "upper")
    above, _, _ = _first(problem.lower, theta, pulled.phi, "lower")
    below, _, _ = _first(problem.lower, theta, minimum.phi, "lower")
    tasks = max(values.numel(), 1)
    grad = [
        (part + strength * (high - low)) / tasks
        for part, high, low in zip(direct, above, below, strict=True)
    ]
    for part in grad:
        require_finite(part.reshape(-1), "the penalised hypergradient", per_task=False)
    _, at_minimum, _ = _first(problem.upper, theta, minimum.phi, "upper")
    return Penalised(
        value=at_minimum.sum() / tasks,
        grad=like(theta, grad),
        minimum=minimum,
        pulled=pulled,
        pull=pull,
        strength=strength,
    )


def _first(
    objective: Objective[Theta, Phi], theta: Theta, phi: Phi, role: str
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Sum of the derivatives in theta, values, and each task's norm of that in phi."""
    upper: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(theta)]
    lower: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(phi)]
    values = evaluate(objective, like(theta, upper), like(phi, lower), role=role)
    both = upper + lower
    with torch.enable_grad():
        total = values.sum()
    gradients: tuple[Tensor, ...] = torch.autograd.grad(
        total, both, allow_unused=True, materialize_grads=True
    )
    count: int = len(upper)
    return list(gradients[:count]), values.detach(), norm(flatten(gradients[count:], values.shape))
