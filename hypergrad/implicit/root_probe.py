"""A probe of an equation's first derivatives: products with them against differences of its values.

A hypergradient through ``F(theta, phi) = 0`` is made of ``A' v`` and ``(dF/dtheta)' v`` only. A
custom function whose backward is wrong makes them wrong, and the adjoint system is solved all the
same. F's values need no backward: for a direction u, ``<A' v, u>`` is ``<v, A u>``, and ``A u`` a
central difference of F along u. One direction is tried in phi and one in theta, each the sum of the
product's own direction and of a fixed one, so that an error normal to the product is seen, too. An
entry moves by a share of itself, for entries may have units of their own, and limits: positive ones
stay positive, and zeros stay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.equation import Equation, Pair, Saddle, aligned
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
    """Compare ``A' v`` and ``(dF/dtheta)' v`` with differences, by eight evaluations of F."""
    step, flat = step_length(phi), flatten(leaves(phi), batch)
    along = _direction(pulled, flat)

    def moved(distance: float) -> Tensor:
        there = like(phi, unflatten(flat + distance * along, leaves(phi)))
        return _residual(equation, theta, there, batch, needed)

    whole, half = (_slope(moved, share * step) for share in (1.0, 0.5))
    error = unexplained(
        dot(pulled, along) - dot(v, whole),
        norm(v) * norm(whole - half),
        size=norm(pulled) * norm(along),
        step=step,
    )
    if crossed:
        error = torch.maximum(
            error, _in_theta(equation, theta, phi, batch, needed, v, crossed, step)
        )
    settle(kind, error, norm(along) * norm(v))
    return error


def _in_theta(
    equation: Equation[Any, Any],
    theta: Any,
    phi: Any,
    batch: Size,
    needed: Sequence[bool],
    v: Tensor,
    crossed: Sequence[Tensor],
    step: float,
) -> Float[Tensor, ""]:
    """The least error of ``(dF/dtheta)' v``, over all tasks and leaves of theta together."""
    own = [leaf for leaf, need in zip(leaves(theta), needed, strict=True) if need]
    product, point = (torch.cat([part.reshape(-1) for part in parts]) for parts in (crossed, own))
    along = _direction(product, point)

    def moved(distance: float) -> Tensor:
        parts = iter((point + distance * along).split([leaf.numel() for leaf in own]))
        there = [
            next(parts).reshape(leaf.shape).to(leaf.dtype) if need else leaf
            for leaf, need in zip(leaves(theta), needed, strict=True)
        ]
        return _residual(equation, like(theta, there), phi, batch, needed)

    whole, half = (_slope(moved, share * step) for share in (1.0, 0.5))
    return unexplained(
        dot(product, along) - dot(v, whole).sum(),
        (norm(v) * norm(whole - half)).sum(),
        size=norm(product) * norm(along),
        step=step,
    )


def _direction(product: Tensor, at: Tensor) -> Tensor:
    """Where to move, no entry by more than itself; zero at a point of zero."""
    scale = at.abs()
    fixed = _unit(_fixed(product))
    # with the product's signs, so that neither cancels the other, in one entry or in the sum
    shares = _unit(scale * product) + torch.where(product < 0, -fixed, fixed)
    largest = shares.abs().amax(dim=-1, keepdim=True) if at.shape[-1] else 1.0
    return scale * shares / largest


def _slope(moved: Callable[[float], Tensor], distance: float) -> Tensor:
    """The central difference of a function of a distance."""
    apart: Tensor = moved(distance) - moved(-distance)
    return apart / (2 * distance)


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
