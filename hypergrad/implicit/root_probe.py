"""A probe of an equation's first derivatives: products with them against differences of its values.

A hypergradient through ``F(theta, phi) = 0`` is made of ``A' v`` and ``(dF/dtheta)' v`` only. A
custom function whose backward is wrong makes them wrong, and the adjoint system is solved all the
same. F's values need no backward: for a direction u, ``<A' v, u>`` is ``<v, A u>``, and ``A u`` a
central difference of F along u. One direction is tried in phi and one in theta, each the sum of the
product's own direction and of a fixed one, so that an error normal to the product is seen, too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.equation import Equation, Pair, Saddle, aligned
from hypergrad.implicit.differences import length_of, step_length
from hypergrad.implicit.probe import Probe, Probing, settle, to_probe, unexplained
from hypergrad.linear.vectors import dot, norm
from hypergrad.tree import detach, flatten, leaves, like, unflatten


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
    length = length_of(flat)

    def moved(distance: Tensor) -> Tensor:
        there = like(phi, unflatten(flat + distance[..., None] * along, leaves(phi)))
        return _residual(equation, theta, there, batch)

    along = _unit(pulled) + _unit(_fixed(pulled))
    whole, half = (_slope(moved, share * step * length) for share in (1.0, 0.5))
    error = unexplained(
        dot(pulled, along) - dot(v, whole),
        norm(v) * norm(whole - half),
        size=norm(pulled),
        step=step,
    )
    if crossed:
        error = torch.maximum(
            error, _in_theta(equation, theta, phi, batch, needed, v, crossed, step)
        )
    settle(kind, error, length * norm(v))
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
    along = _unit(product) + _unit(_fixed(product))

    def moved(distance: Tensor) -> Tensor:
        parts = iter((point + distance * along).split([leaf.numel() for leaf in own]))
        there = [
            next(parts).reshape(leaf.shape).to(leaf.dtype) if need else leaf
            for leaf, need in zip(leaves(theta), needed, strict=True)
        ]
        return _residual(equation, like(theta, there), phi, batch)

    whole, half = (_slope(moved, share * step * norm(point)) for share in (1.0, 0.5))
    return unexplained(
        dot(product, along) - dot(v, whole).sum(),
        (norm(v) * norm(whole - half)).sum(),
        size=norm(product),
        step=step,
    )


def _slope(moved: Callable[[Tensor], Tensor], distance: Tensor) -> Tensor:
    """The central difference of a function of a distance."""
    apart: Tensor = moved(distance) - moved(-distance)
    return apart / (2 * distance)[..., None]


def _residual(equation: Equation[Any, Any], theta: Any, phi: Any, batch: Size) -> Tensor:
    with torch.no_grad():
        found = equation.residual(theta, phi)
    return flatten(aligned(found, phi, type(equation).__name__), batch)


def _fixed(shaped_as: Tensor) -> Tensor:
    count = torch.arange(shaped_as.shape[-1], device=shaped_as.device, dtype=shaped_as.dtype)
    return count.cos().expand_as(shaped_as)


def _unit(vector: Tensor) -> Tensor:
    size = norm(vector)[..., None]
    return vector / torch.where(size > 0, size, 1.0)
