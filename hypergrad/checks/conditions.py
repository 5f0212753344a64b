"""Find the condition that phi satisfies where it is said to minimise g and does not.

A solution within a set, or of g plus a penalty, leaves a gradient of g of a certain form. Where
phi's values and that gradient have it, entry by entry, the condition has been found.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hypergrad.checks.problem import Problem
from hypergrad.tree import leaves, names, unflatten

# An entry of the gradient that is smaller than this share of the largest is called zero, and two
# that differ by less are called equal: far above what a solver leaves, far below chance.
_SMALL = 1e-3


def recognised(problem: Problem) -> str:
    """The condition that every leaf of phi satisfies where g's gradient is not zero; or empty."""
    gradient = problem.linearise().gradient
    parts = unflatten(gradient, leaves(problem.phi))
    largest = float(gradient.abs().max()) if gradient.numel() else 0.0
    found = []
    for label, leaf, slope in zip(
        names(problem.phi, "phi"), leaves(problem.phi), parts, strict=True
    ):
        if float(slope.abs().max()) <= _SMALL * largest:
            continue  # at a minimum in this leaf
        x = leaf.detach()
        dims = x.ndim - len(problem.batch)
        name = next((name for form in _FORMS if (name := form(x, slope, dims))), "")
        if not name:
            return ""
        found.append(name if len(parts) == 1 else f"{name} for {label}")
    return ", ".join(found)


def _bounds(x: Tensor, slope: Tensor, dims: int) -> str:
    """Entries with a gradient are at one of two values, and are pushed beyond it."""
    del dims
    held = slope.abs() > _SMALL * slope.abs().max()
    low, high = x.min(), x.max()
    below, above = held & (x == low) & (slope > 0), held & (x == high) & (slope < 0)
    if bool((held & ~below & ~above).any()) or bool(low == high):
        return ""
    # one entry is the least of all by chance, unless its value is a round one
    sides = [
        (side, at)
        for side, mask, at in (("low", below, low), ("high", above, high))
        if bool(mask.any())
    ]
    if any(int((x == at).sum()) == 1 and float(at) not in (0.0, 1.0) for _, at in sides):
        return ""
    if [(side, float(at)) for side, at in sides] == [("low", 0.0)]:
        return "Constrained(g, NonNegative())"
    given = ", ".join(f"{side}={float(at):.6g}" for side, at in sides)
    return f"Constrained(g, Box({given}))"


def _simplex(x: Tensor, slope: Tensor, dims: int) -> str:
    """Rows with one sum, one gradient on their support, and none lower at their zeros."""
    if not dims or x.shape[-1] < 2 or bool((x < 0).any()):
        return ""
    total, near = x.sum(dim=-1), _SMALL * slope.abs().max()
    level = torch.where(x > 0, slope, torch.inf).amin(dim=-1, keepdim=True)
    same = bool(((total - total.mean()).abs() <= _SMALL * total.mean()).all())
    flat = bool(((slope - level).abs()[x > 0] <= near).all())
    if not (same and flat and bool((slope - level >= -near).all())):
        return ""
    return f"Constrained(g, Simplex({float(total.mean()):.6g}))"


def _ball(x: Tensor, slope: Tensor, dims: int) -> str:
    """Rows of one length that the gradient is opposite to."""
    if not dims or x.shape[-1] < 2:
        return ""
    length, size = x.norm(dim=-1), slope.norm(dim=-1)
    apart = (slope * length[..., None] + x * size[..., None]).norm(dim=-1)
    radius = length.max()
    fits = (length >= (1 - _SMALL) * radius) | (size <= _SMALL * size.max())
    if not bool(((apart <= _SMALL * length * size.max()) & fits).all()):
        return ""
    return f"Constrained(g, L2Ball({float(radius):.6g}))"


def _lasso(x: Tensor, slope: Tensor, dims: int) -> str:
    """One size of gradient against the sign of x where x is not zero, and no larger at zeros."""
    del dims
    on, strength = x != 0, slope.abs().max()
    fits = torch.where(on, (slope + strength * x.sign()).abs() <= _SMALL * strength, True)
    if int(on.sum()) < 2 or not bool(fits.all()):
        return ""
    return f"Composite(g, L1({float(strength):.3g}))"


_FORMS: tuple[Callable[[Tensor, Tensor, int], str], ...] = (_bounds, _simplex, _ball, _lasso)
