"""Parts of a condition: what a set or a penalty offers, and the objective that it reduces.

Near a solution the active set (which coordinates are at a bound, which are zero) does not change,
and the solution moves on a smooth manifold M(theta). There it is a stationary point of

    ``g~(theta, phi) = G(theta, pi(theta, phi)) + s/2 |phi - pi(theta, phi)|^2``,

with pi the projection onto M and G = g plus the penalty, which is smooth on M. At a solution the
Hessian is that of G on M's tangent space, M's curvature included, and ``s I`` on the normal space
(docs/theory.md, section 12). The active set is read from phi's values, which carry no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

import torch
from torch import Size, Tensor

from hypergrad.errors import InputError
from hypergrad.guards import raise_if
from hypergrad.implicit.active import Slacks
from hypergrad.implicit.entrywise import Entrywise
from hypergrad.objective import Objective
from hypergrad.transforms import transforming
from hypergrad.tree import Tree, detach, entries, leaves, like, names

Value: TypeAlias = float | Tensor | Callable[[Any], Any]
"""A number, a tensor that broadcasts to phi's leaf, or a function of theta that returns one."""


@runtime_checkable
class Set(Protocol):
    """A closed convex set that a leaf of phi is confined to."""

    @property
    def dims(self) -> int:
        """Number of last dimensions that are tied together: 0 if each entry has its own bound."""
        ...

    def project(self, theta: Any, x: Tensor) -> Tensor:
        """The nearest point of the set."""
        ...

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """The nearest point of the manifold that x's values say is active, smooth in theta and x.

        A second-order retraction is enough: any smooth map that leaves the manifold's points where
        they are, and whose second derivative along the manifold is normal to it.
        """
        ...

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Multipliers of active bounds and distances to the others, both like x.

        A multiplier is in units of the gradient, not negative at a solution, and infinite where
        no bound is active. A distance is in units of x, and infinite where one is.

        Args:
            theta: the upper variable.
            x: the leaf.
            gradient: gradient of the smooth part in x.
        """
        ...


@runtime_checkable
class Penalty(Protocol):
    """A convex function of a leaf of phi, smooth but for kinks."""

    @property
    def dims(self) -> int:
        """Number of last dimensions that are tied together: 0 if each entry has its own kink."""
        ...

    def value(self, theta: Any, x: Tensor) -> Tensor:
        """The penalty's terms; all but the tasks' dimensions are summed. Smooth on the manifold."""
        ...

    def prox(self, theta: Any, x: Tensor, step: Tensor) -> Tensor:
        """The y that minimises ``penalty(y) + |y - x|^2 / (2 step)``; step broadcasts to x."""
        ...

    def manifold(self, theta: Any, x: Tensor) -> Tensor:
        """See :meth:`Set.manifold`."""
        ...

    def slacks(self, theta: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Set.slacks`."""
        ...


Part: TypeAlias = Set | Penalty


def is_penalty(part: Part | None) -> TypeGuard[Penalty]:
    """Tell a Penalty from a Set; ``isinstance`` would look at each member of the protocol."""
    return hasattr(part, "prox") and hasattr(part, "value")  # a set may have a prox, its projection


def check_parts(owner: str, given: Tree, name: str, kinds: tuple[type, ...], wanted: str) -> None:
    """Raise unless each leaf of the tree is a part of these kinds, or None.

    Raises:
        InputError: naming the leaf.
    """
    parts: list[object] = entries(given)  # users' trees are checked, not believed
    if not parts:
        raise InputError(f"{owner} got an empty {type(given).__name__} as {name}; give {wanted}.")
    for label, part in zip(names(given, name), parts, strict=True):
        if isinstance(part, type):
            shown = f"the class {part.__name__}, not a value of it"
        elif part is None or isinstance(part, kinds):
            continue
        else:
            shown = f"a {type(part).__name__}"
        raise InputError(f"{owner} got {label} = {shown}; give {wanted}.")
    if all(part is None for part in parts):
        raise InputError(f"{owner} got None as {name}: then it is g itself; give {wanted}.")


def parts_of(given: Tree, phi: Any, name: str) -> list[Part | None]:
    """The part of each leaf of phi: one for all of them, or a tree with phi's structure.

    Raises:
        InputError: the structures differ, or a leaf has fewer dimensions than its part ties.
    """
    parts = _spread(given, phi, name)
    for label, part, leaf in zip(names(phi, "phi"), parts, leaves(phi), strict=True):
        if part is not None and leaf.ndim < part.dims:
            raise InputError(
                f"{label} has shape {tuple(leaf.shape)}, but {type(part).__name__} needs "
                f"{part.dims} more dimension of unknowns at the end."
            )
    return parts


def _spread(given: Tree, phi: Any, name: str) -> list[Part | None]:
    found = entries(given)
    if len(found) == 1 and found[0] is given:
        return found * len(leaves(phi))
    mine = dict(zip(names(given, ""), found, strict=True))
    wanted = names(phi, "")
    if mine.keys() != set(wanted):
        raise InputError(
            f"{name} has the leaves {', '.join(mine)}; like phi it must have {', '.join(wanted)} "
            "(None for a leaf that is free), or be one value for all of them."
        )
    return [mine[label] for label in wanted]


def reduced(g: Objective[Any, Any], parts: Sequence[Part | None], theta: Any, phi: Any) -> Tensor:
    """The values of the reduced objective, ``(*batch,)``.

    Raises:
        InputError: a part ties dimensions together that are the tasks'.
    """
    points = leaves(phi)
    there = [
        leaf if part is None else part.manifold(theta, leaf)
        for part, leaf in zip(parts, points, strict=True)
    ]
    values = g(theta, like(phi, there))
    batch = values.shape
    if any(leaf.shape[: len(batch)] != batch for leaf in points):
        return values  # the library's check of objectives says it in words
    for label, part, leaf in zip(names(phi, "phi"), parts, points, strict=True):
        if part is not None and leaf.ndim < len(batch) + part.dims:
            raise InputError(
                f"{label} has shape {tuple(leaf.shape)} for tasks {tuple(batch)}, but "
                f"{type(part).__name__} needs {part.dims} more dimension of unknowns at the end."
            )
    total = _with_penalties(values, parts, theta, there)
    apart = [_summed((leaf - on).square(), batch) for leaf, on in zip(points, there, strict=True)]
    stiffness = _stiffness(g, parts, theta, like(phi, there), batch)
    return total + stiffness / 2 * torch.stack(apart).sum(dim=0)


def _with_penalties(
    values: Tensor, parts: Sequence[Part | None], theta: Any, points: Sequence[Tensor]
) -> Tensor:
    for part, point in zip(parts, points, strict=True):
        if is_penalty(part):
            values = values + _summed(part.value(theta, point), values.shape)
    return values


def _stiffness(
    g: Objective[Any, Any], parts: Sequence[Part | None], theta: Any, phi: Any, batch: Size
) -> Tensor:
    """The s of the reduced objective, ``(*batch,)``: a curvature of G, so that no unit spoils it.

    Any s > 0 gives the same derivatives. With the one of G's mean curvature along phi, from a
    second difference between phi, phi/2 and phi/4, the Hessian's eigenvalues are of one size:

        ``phi' H phi = 16/3 (G(phi) - 3 G(phi/2) + 2 G(phi/4))`` for a quadratic G.
    """
    theta, phi = detach(theta), detach(phi)
    with torch.no_grad():
        each = []
        for share in (1.0, 0.5, 0.25):
            points = [leaf * share for leaf in leaves(phi)]
            values = g(theta, like(phi, points))
            each.append(_with_penalties(values, parts, theta, points))
        bent = (16 / 3 * (each[0] - 3 * each[1] + 2 * each[2])).abs()
        size = torch.stack(each).abs().amax(dim=0)
        # a G that is linear along phi leaves rounding only
        bent = torch.maximum(bent, torch.finfo(bent.dtype).eps ** 0.5 * size)
        square = torch.stack([_summed(leaf.square(), batch) for leaf in leaves(phi)]).sum(dim=0)
        found = bent / square
        return torch.where(found.isfinite() & (found > 0), found, 1.0)


def proximal(parts: Sequence[Part | None], theta: Any, phi: Any, step: Tensor) -> Any:
    """Each leaf's proximal map, a tree like phi; ``step`` is ``(*batch,)``."""
    moved = []
    for part, leaf in zip(parts, leaves(phi), strict=True):
        # in the leaf's dtype, as the gradient's step is: a wider one would widen the leaf
        length = step.reshape(step.shape + (1,) * (leaf.ndim - step.ndim)).to(leaf.dtype)
        if part is None:
            moved.append(leaf)
        elif is_penalty(part):
            moved.append(part.prox(theta, leaf, length))
        else:
            moved.append(cast(Set, part).project(theta, leaf))
    return like(phi, moved)


def slacks_of(parts: Sequence[Part | None], theta: Any, phi: Any, gradient: Any) -> Slacks:
    """Each leaf's slacks; infinite for a free leaf."""
    multipliers, distances = [], []
    for part, leaf, slope in zip(parts, leaves(phi), leaves(gradient), strict=True):
        none = torch.full_like(leaf, torch.inf)
        pair = (none, none) if part is None else part.slacks(theta, leaf, slope)
        multipliers.append(pair[0])
        distances.append(pair[1])
    return multipliers, distances


def far_sides_of(parts: Sequence[Part | None], theta: Any, phi: Any, gradient: Any) -> list[Tensor]:
    """Each leaf's slacks of the farther side, where an entry has two; else infinite.

    A part has them as ``far_side``. The nearer side is the slack; where theta moves the two at
    different rates, the farther may be reached first.
    """
    found = []
    for part, leaf, slope in zip(parts, leaves(phi), leaves(gradient), strict=True):
        far = getattr(part, "far_side", None)
        found.append(torch.full_like(leaf, torch.inf) if far is None else far(theta, leaf, slope))
    return found


def entrywise_of(parts: Sequence[Part | None], theta: Any, phi: Any) -> list[Entrywise]:
    """Bounds and kinks of each leaf's entries, where its part has ``entrywise(theta, x)``.

    Raises:
        InputError: a part ties entries together.
    """
    found = []
    for label, part, leaf in zip(names(phi, "phi"), parts, leaves(phi), strict=True):
        own = getattr(part, "entrywise", None)
        if part is not None and own is None:
            raise InputError(
                f"{label} has {type(part).__name__}, which has no entrywise(theta, x) that says "
                "what holds each entry by itself (L1, ElasticNet, Box and NonNegative have it); "
                "use solvers.ProximalGradient()."
            )
        found.append(Entrywise.of(leaf) if own is None else own(theta, leaf))
    return found


def has_kink(value: Value, strength: Tensor) -> Tensor:
    """True where a strength makes a kink at zero: not where it is zero whatever theta is.

    An intercept's, say: nothing holds it at zero, and there is nothing to be far from.
    """
    return strength.detach() != 0 if not callable(value) else torch.ones_like(strength).bool()


def resolved(value: Value, theta: Any, x: Tensor, name: str, *, like_x: bool = True) -> Tensor:
    """A value at theta in x's dtype; of x's shape, unless that is not asked for.

    Raises:
        InputError: the value does not broadcast to x.
    """
    given = value(theta) if callable(value) else value
    found = (
        given.to(x.dtype)
        if isinstance(given, Tensor)
        else torch.tensor(given, dtype=x.dtype, device=x.device)
    )
    if not like_x:
        return found
    try:
        return found.expand(x.shape)
    except RuntimeError as error:
        raise InputError(
            f"{name} has shape {tuple(found.shape)}, and phi's leaf has {tuple(x.shape)}: give a "
            "number, or a shape that broadcasts to the leaf's."
        ) from error


def check_value(owner: str, name: str, value: object, *, positive: bool) -> None:
    """Raise unless it is a non-negative (or positive) number, a tensor of those, or a function.

    Raises:
        InputError: naming the owner and what it got.
    """
    bound = "positive" if positive else "not negative"
    if isinstance(value, Tensor):
        low = bool((value <= 0).any() if positive else (value < 0).any())
        wrong = "a tensor with an entry that is not" if low or bool(value.isnan().any()) else ""
    elif callable(value) and not isinstance(value, type):
        wrong = ""
    elif isinstance(value, bool) or not isinstance(value, int | float):
        wrong = f"a {type(value).__name__}"
    else:
        fine = value > 0 if positive else value >= 0
        wrong = "" if fine and value < float("inf") else repr(value)
    if wrong:
        raise InputError(
            f"{owner} got {name} = {wrong}; it must be a number or a tensor, finite and {bound}, "
            "or a function of theta that returns one."
        )


def require(holds: Tensor, message: str) -> None:
    """Raise where values at this theta can't be used; not under a transform, which has no values.

    Raises:
        InputError: with this message.
    """
    if not transforming(holds):
        raise_if(~holds.all(), lambda: InputError(message))


def masked(mask: Tensor, yes: Tensor | float, no: Tensor | float) -> Tensor:
    """``torch.where`` with numbers."""
    return torch.where(mask, yes, no)


def _summed(values: Tensor, batch: Size) -> Tensor:
    return values.reshape(*batch, values.shape[len(batch) :].numel()).sum(dim=-1)
