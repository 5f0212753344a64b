"""A probe of an equation's first derivatives: products with them against differences of its values.

A hypergradient through ``F(theta, phi) = 0`` is made of ``A' v`` and ``(dF/dtheta)' v`` only. A
custom function whose backward is wrong makes them wrong, and the adjoint system is solved all the
same. F's values need no backward: for a direction u, ``<A' v, u>`` is ``<v, A u>``, and ``A u`` a
central difference of F along u. One direction is tried in phi and one in theta, each the sum of the
product's own direction and of a fixed one, so that an error normal to the product is seen, too. An
entry moves by a share of itself, for entries may have units of their own, and limits: positive ones
stay positive. Entries that are zero are tried by themselves, by a share of the others of their
leaf: the domain may end there, or be kinked, which must not hide what the others tell.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.equation import Equation, Pair, Saddle, aligned
from hypergrad.guards import current_checks
from hypergrad.implicit.differences import step_length
from hypergrad.implicit.probe import Probe, Probing, settle, to_probe, unexplained
from hypergrad.linear.vectors import dot, norm
from hypergrad.tree import detach, flatten, fresh_leaf, leaves, like, unflatten


def root_probe(
    when: Probing,
    lower: Saddle,
    theta: Any,
    pair: Pair[Any],
    *,
    batch: Size,
    needed: Sequence[bool] | None,
    graph: Hashable,
) -> Probe | None:
    """The probe at this point; None if it is not to be taken. See :func:`probe.probe_of`."""
    kind = to_probe(when, lower, pair.phi, needed=needed, graph=graph)
    if kind is None:
        return None
    wanted = [True] * len(leaves(theta)) if needed is None else list(needed)
    return partial(_probe, kind, lower.equation, detach(theta), detach(pair.phi), batch, wanted)


def _probe(
    kind: Hashable,
    equation: Equation[Any, Any],
    theta: Any,
    phi: Any,
    batch: Size,
    needed: Sequence[bool],
    v: Tensor,
    pulled: Tensor,
    crossed: Sequence[Tensor],
) -> Float[Tensor, "*batch"]:
    """Compare ``A' v`` and ``(dF/dtheta)' v`` with differences, by eight evaluations of F or more.

    An error of the second is over all tasks and leaves of theta together.
    """
    step = step_length(phi)
    rows = [flatten([leaf], batch) for leaf in leaves(phi)]

    def in_phi(shift: Tensor) -> Tensor:
        there = like(phi, unflatten(torch.cat(rows, dim=-1) + shift, leaves(phi)))
        return _residual(equation, theta, there, batch, needed)

    error, moved = _compared(in_phi, rows, pulled, v, step, lambda each: each)
    if crossed:
        own = [leaf for leaf, need in zip(leaves(theta), needed, strict=True) if need]
        points = [leaf.reshape(-1) for leaf in own]

        def in_theta(shift: Tensor) -> Tensor:
            there = iter((torch.cat(points) + shift).split([leaf.numel() for leaf in own]))
            at = [
                next(there).reshape(leaf.shape).to(leaf.dtype) if need else leaf
                for leaf, need in zip(leaves(theta), needed, strict=True)
            ]
            return _residual(equation, like(theta, at), phi, batch, needed)

        product = torch.cat([part.reshape(-1) for part in crossed])
        upper, _ = _compared(in_theta, points, product, v, step, torch.sum)
        error = torch.maximum(error, upper)
    settle(kind, error, moved * norm(v))
    return error


def _compared(
    moved: Callable[[Tensor], Tensor],
    points: Sequence[Tensor],
    product: Tensor,
    v: Tensor,
    step: float,
    total: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The least error of a product, and how far its point was moved, up to a factor.

    Args:
        moved: F at the point plus a shift.
        points: the leaves of the point, ``(*batch, n_i)`` or ``(n_i,)``.
        product: product with v, of all leaves.
        v: vectors of all tasks.
        step: relative step of the differences.
        total: function that joins the tasks' values, where the product has one for all of them.
    """
    sizes = torch.cat([point.abs() for point in points], dim=-1)
    along = _direction(product, sizes)
    error = _off(moved, along, product, v, step, total)
    zero = sizes == 0
    if current_checks() is None and bool(zero.any()):
        lent = torch.cat([_mean_size(point) for point in points], dim=-1)
        aside = _direction(product, torch.where(zero, lent, 0.0))
        # zeros may be where F's domain ends, or at a kink: nothing can be said there
        bent = _bend(moved, aside, step)
        beside = _off(moved, aside, product, v, step, total, doubt=total(norm(v) * norm(bent)))
        error, along = torch.maximum(error, beside), along + aside
    return error, norm(along)


def _off(
    moved: Callable[[Tensor], Tensor],
    along: Tensor,
    product: Tensor,
    v: Tensor,
    step: float,
    total: Callable[[Tensor], Tensor],
    doubt: Tensor | float = 0.0,
) -> Tensor:
    """The least error of a product, by differences of F along a direction."""
    whole, half = (_slope(moved, share * step * along) / (share * step) for share in (1.0, 0.5))
    return unexplained(
        dot(product, along) - total(dot(v, whole)),
        total(norm(v) * norm(whole - half)) + doubt,
        size=norm(product) * norm(along),
        step=step,
    )


def _direction(product: Tensor, scale: Tensor) -> Tensor:
    """Direction to move in: no entry by more than its scale, and none of scale zero."""
    fixed = _unit(_fixed(product))
    # with the product's signs, so that neither cancels the other, in one entry or in the sum
    shares = _unit(scale * product) + torch.where(product < 0, -fixed, fixed)
    largest = shares.abs().amax(dim=-1, keepdim=True) if scale.shape[-1] else 1.0
    return scale * shares / largest


def _mean_size(point: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """The mean size of the entries of a leaf that are not zero; 1 where all are."""
    count = (point != 0).sum(dim=-1, keepdim=True)
    mean = point.abs().sum(dim=-1, keepdim=True) / count.clamp(min=1)
    return torch.where(count > 0, mean, 1.0).expand(point.shape)


def _slope(moved: Callable[[Tensor], Tensor], shift: Tensor) -> Tensor:
    """The central difference of F."""
    apart: Tensor = moved(shift) - moved(-shift)
    return apart / 2


def _bend(moved: Callable[[Tensor], Tensor], along: Tensor, step: float) -> Tensor:
    """Half the difference of the slopes ahead and behind: at a kink as large as they are."""
    shift = step * along
    bent: Tensor = moved(shift) + moved(-shift) - 2 * moved(torch.zeros_like(shift))
    return bent / (2 * step)


def _residual(
    equation: Equation[Any, Any], theta: Any, phi: Any, batch: Size, needed: Sequence[bool]
) -> Tensor:
    """F's values, with theta and phi as they are given to it elsewhere: F may differentiate."""
    upper = [
        fresh_leaf(leaf, requires_grad=need)
        for leaf, need in zip(leaves(theta), needed, strict=True)
    ]
    lower = [fresh_leaf(leaf) for leaf in leaves(phi)]
    with torch.enable_grad():
        found = equation.residual(like(theta, upper), like(phi, lower))
    return flatten(aligned(found, phi, type(equation).__name__), batch).detach()


def _fixed(shaped_as: Tensor) -> Tensor:
    count = torch.arange(shaped_as.shape[-1], device=shaped_as.device, dtype=shaped_as.dtype)
    return count.cos().abs().expand_as(shaped_as)


def _unit(vector: Tensor) -> Tensor:
    size = norm(vector)[..., None]
    return vector / torch.where(size > 0, size, 1.0)
