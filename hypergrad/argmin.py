"""``argmin``: solve the lower level, and get a minimiser that autograd can differentiate."""

from __future__ import annotations

import torch
from torch import Tensor

from hypergrad.adjoints import Adjoint, Condition
from hypergrad.equation import stated
from hypergrad.guards import noting, refuse_not_finite, resumed
from hypergrad.implicit.watch import Watch, warn
from hypergrad.lower.minimum import LowerSolver, RootSolver, require_fitting
from hypergrad.objective import across_ranks, examine
from hypergrad.transforms import is_batched_twice, outside_compilers, transforming
from hypergrad.tree import Phi, Theta, check_tree, flatten, full_precision, leaves, like, widened


@outside_compilers
def argmin(
    lower: Condition[Theta, Phi],
    theta: Theta,
    phi0: Phi,
    *,
    by: LowerSolver | RootSolver,
    adjoint: Adjoint,
    watch: Watch = warn,
) -> Phi:
    """The minimiser of ``lower(theta, .)``, as a differentiable function of theta.

    Or the root, fixed point or stationary point that ``lower`` states (``hypergrad.conditions``),
    found by a solver of such (Anderson, NewtonKrylov, ...).

    Comparing the paper's method with the ones it is compared to changes one argument:
    ``adjoint=Implicit(CG(max_steps=N))`` is its Algorithm 1, ``Unrolled()`` is ITD-BiO / ANIL /
    MAML, ``Truncated(steps=k)``, ``OneStep(step_size=a)`` and ``Detached()`` are the others.

    Args:
        lower: g, one value for each task; or a condition.
        theta: upper variable, or whatever differentiable tensors the lower level sees of it.
        phi0: start of the lower solver, leading dimensions = tasks.
        by: the lower solver.
        adjoint: way to differentiate the result.
        watch: is given the certificate when backward has run; see :func:`attach`.

    Returns:
        A tree like phi0.

    Raises:
        InputError: an argument or the objective can't be used.
        NotFiniteError: g is NaN or infinite, or the lower solver diverged; in backward, if a
            derivative is.
    """
    check_tree(theta, "theta")
    check_tree(phi0, "phi0")
    theta = widened(theta, phi0)
    objective, start = stated(lower, phi0, "phi0")
    require_fitting(by, objective)
    if transforming(*leaves(theta), *leaves(phi0)):
        with full_precision(phi0):  # values are looked at within the adjoint's nodes
            return adjoint.minimise(lower, theta, phi0, by, watch)
    with full_precision(phi0):
        moved = any(leaf.requires_grad for leaf in leaves(phi0))  # by its start, at least
        values = examine(objective, theta, start, need_theta=not moved)
        theta = like(theta, (_watched(leaf) for leaf in leaves(theta)))
        phi = adjoint.minimise(lower, theta, phi0, by, watch)
    if (ranks := across_ranks(objective)) is not None:
        phi = ranks.guarded(phi)
    found = flatten([leaf.detach() for leaf in leaves(phi)], values.shape)
    refuse_not_finite(found, f"phi where {type(by).__name__} ended", per_task=False)
    return phi


def _watched(leaf: Tensor) -> Tensor:
    """The same tensor, whose derivative through the lower level is looked at in backward."""
    if not (leaf.requires_grad and torch.is_grad_enabled()):
        return leaf
    seen = leaf.view_as(leaf)
    checks = noting()

    def refuse(gradient: Tensor | None) -> None:
        # a loss may block the derivative; of several at once, the nodes look at each
        if gradient is None or is_batched_twice(gradient):
            return
        what = "the derivative in theta through the lower level"
        with resumed(checks):  # another thread may run backward
            refuse_not_finite(gradient.reshape(-1), what, per_task=False)

    seen.register_hook(refuse)
    return seen
