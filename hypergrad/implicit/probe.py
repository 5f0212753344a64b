"""A probe of second derivatives: products with H and J against differences of first derivatives.

An operation whose first derivative is right and whose second is not (torch's weight_norm,
spectral_norm and sparse tensors, or a custom function that keeps intermediates for its backward)
gives a wrong H and J, and an adjoint system that is solved all the same. A central difference of
the gradient along v has neither: it is compared with ``H v`` and with ``J v``, which are all that a
hypergradient is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import CodeType
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.errors import InputError
from hypergrad.guards import current_checks
from hypergrad.implicit.differences import Differences, length_of, step_length
from hypergrad.linear.vectors import norm
from hypergrad.objective import across_ranks
from hypergrad.tree import detach, flatten, leaves

Probing: TypeAlias = Literal["once", "always", "never"]
"""When to probe: at the first backward of a kind of objective, at each, or at none."""

Probe: TypeAlias = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]
"""``(v, H v, J v) -> (*batch,)``: how wrong they are at least, relative to themselves. Of an
equation ``A' v`` stands for H v."""

# Products that are off by more than this share are called wrong.
WRONG = 0.01
# A difference whose step is h is off by C h^2, which is 4/3 of its distance from the one whose step
# is h/2; rounding, and a kink of g between the points, leave it off by about that distance. Five
# times that is more than any of them explains.
_UNEXPLAINED = 5.0
# Relative to the product, rounding of a difference is about u^(2/3) kappa, for kappa up to u^(-1/3)
# no more than u^(1/3), the relative step; of few entries it may be as large with both steps. So
# many steps are allowed for that, and as many more as the step is shorter for the sake of few
# entries (`_spread`): up to ten times, since among more than a hundred entries chance evens out.
_ROUNDING = 4.0
_FEW = 0.1

_PASSED: set[Hashable] = set()  # the kinds of objective that were found right in this process


def raise_if_always(when: Probing, condition: object) -> None:
    """Raise if a probe was asked for where there is none.

    Raises:
        InputError: naming the condition.
    """
    if when == "always":
        raise InputError(
            f'probe="always" compares second derivatives of a smooth objective, and a '
            f"{type(condition).__name__} has no such probe; leave it out, and compare the smooth "
            "part's own by check(...)."
        )


def probe_of(
    when: Probing,
    lower: Any,
    theta: Any,
    phi: Any,
    *,
    batch: Size,
    needed: Sequence[bool] | None,
    graph: Hashable,
) -> Probe | None:
    """The probe at this point; None if it is not to be taken.

    Args:
        when: once for a kind of objective, always or never.
        lower: g.
        theta: where.
        phi: where.
        batch: the tasks' dimensions.
        needed: the leaves of theta that J is taken for.
        graph: mark that differs between graphs of objectives of the same code.
    """
    kind = to_probe(when, lower, phi, needed=needed, graph=graph)
    if kind is None:
        return None
    return partial(_probe, kind, lower, detach(theta), detach(phi), batch, needed)


def to_probe(
    when: Probing, lower: Any, phi: Any, *, needed: Sequence[bool] | None, graph: Hashable
) -> Hashable | None:
    """The kind of objective, if it is to be probed; else None. See :func:`probe_of`."""
    if when == "never":
        return None
    of = None if needed is None else tuple(needed)
    kind = (_code(lower), graph, of)
    if when == "once":
        missing, ranks = kind not in _PASSED, across_ranks(lower)
        if ranks is not None:  # all ranks take it, or none does
            missing = ranks.on_any(missing, leaves(phi)[0].device)
        if not missing:
            return None
    return kind


# what is mapped, or shared by ranks; of a saddle its equation, and that one's function
_INNER = ("lower", "equation", "equations", "map", "objective")


def _code(lower: Any) -> Hashable:
    """The code of an objective, the same for all closures of one function."""
    code: CodeType | None = getattr(getattr(lower, "__func__", lower), "__code__", None)
    if code is not None:
        return code
    inner = next((getattr(lower, name) for name in _INNER if hasattr(lower, name)), None)
    return str(type(lower)) if inner is None else (str(type(lower)), _code(inner))


def _probe(
    kind: Hashable,
    lower: Any,
    theta: Any,
    phi: Any,
    batch: Size,
    needed: Sequence[bool] | None,
    v: Tensor,
    curved: Tensor,
    crossed: Sequence[Tensor],
) -> Float[Tensor, "*batch"]:
    """See `Probe`; by two central differences, which take four gradients."""
    spread, step = _spread(v), step_length(phi)
    length = length_of(flatten(leaves(phi), batch)) * spread
    allowed = step / spread.clamp(min=_FEW)
    whole, half = (
        Differences(
            lower, theta, phi, batch=batch, distance=share * step * length, needed=needed
        ).both(v)
        for share in (1.0, 0.5)
    )
    error = _compared(curved, whole[0], half[0], allowed)
    if crossed:
        product, far, near = (
            torch.cat([part.reshape(-1) for part in parts])
            for parts in (crossed, whole[1], half[1])
        )
        error = torch.maximum(error, _compared(product, far, near, allowed))
    settle(kind, error, length * norm(v))
    return error


def settle(kind: Hashable, error: Tensor, distance: Tensor) -> None:
    """Remember a kind that was found right; where checks wait, the first certificate must do.

    Args:
        kind: the kind of objective, as `to_probe` names it.
        error: ``(*batch,)`` error that the probe measured.
        distance: ``(*batch,)`` length of the move of phi, up to a factor.
    """
    if current_checks() is not None or _is_right(error, distance):
        _PASSED.add(kind)


def _spread(v: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """``|v| / (sqrt(n) max |v|)``: 1 if all entries of v are alike, ``1/sqrt(n)`` if one is alone.

    Among n weights the few that v moves would be moved by sqrt(n) times their size, by a step
    relative to all of phi. With this factor none moves by more than the step times the root mean
    square of phi's entries.
    """
    largest = v.abs().amax(dim=-1) if v.shape[-1] else v.new_ones(v.shape[:-1])
    known = torch.where(largest > 0, largest, 1.0)
    alike = norm(v / known[..., None]) / max(v.shape[-1], 1) ** 0.5
    return torch.where(largest > 0, alike, 1.0)


def _is_right(error: Tensor, distance: Tensor) -> bool:
    """True if no task's products were wrong, and some task's phi was moved."""
    return not bool((error > WRONG).any()) and bool((distance > 0).any())


def _compared(product: Tensor, whole: Tensor, half: Tensor, step: Tensor) -> Tensor:
    """The distance of a product from differences with two steps, beyond what they explain."""
    gap, doubt = norm(product - whole), norm(whole - half)
    return unexplained(gap, doubt, size=norm(product), step=step)


def unexplained(gap: Tensor, doubt: Tensor, *, size: Tensor, step: Tensor | float) -> Tensor:
    """The part of a gap that neither rounding nor the differences' own doubt explains.

    Relative to the product; 0 where nothing can be said, at a phi of zero or at the edge of g's
    domain.

    Args:
        gap: between a product and a difference.
        doubt: between differences with the whole step and half of it.
        size: the product's norm.
        step: the differences' relative step.
    """
    share = (gap.abs() - _UNEXPLAINED * doubt) / size - _ROUNDING * step
    return share.clamp(min=0.0).nan_to_num(nan=0.0)
