"""Objectives: one value for each task, and what must hold before one can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from hypergrad.equation import Saddle, called, size_of
from hypergrad.errors import InputError
from hypergrad.graph import leaves_reached, no_dependence, nodes_of
from hypergrad.guards import refuse_not_finite
from hypergrad.transforms import captured_by_transform, is_transformed
from hypergrad.tree import (
    Phi,
    Theta,
    check_batch,
    check_same_kind,
    check_tree,
    fresh_leaf,
    leaves,
    like,
    names,
)

Objective: TypeAlias = Callable[[Theta, Phi], Tensor]
"""``(theta, phi) -> (*batch,)``: one value for each task, no mixing of tasks."""


@dataclass(frozen=True, kw_only=True)
class Bilevel(Generic[Theta, Phi]):
    """``min_theta mean_i upper_i(theta, phi_i*)`` with ``phi_i* = argmin_phi lower_i(theta, phi)``.

    Attributes:
        upper: f, returns one value for each task, shape ``batch``.
        lower: g, returns one value for each task, shape ``batch``.
    """

    upper: Objective[Theta, Phi]
    lower: Objective[Theta, Phi]


@runtime_checkable
class AcrossRanks(Protocol):
    """A lower objective whose data lie on several ranks, on which all that follows must agree."""

    def require_alike(self, named: Mapping[str, Tensor]) -> None:
        """Raise :class:`RankError` unless the ranks hold the same bits of each tensor."""
        ...

    def on_any(self, flag: bool, device: torch.device) -> bool:
        """True if the flag is set on any rank; ``device`` holds the message between ranks."""
        ...

    def guarded(self, phi: Phi) -> Phi:
        """The same tree; backward raises :class:`RankError` where the ranks' cotangents differ."""
        ...


def across_ranks(lower: object) -> AcrossRanks | None:
    """The part of a lower objective that lies on several ranks, if it has one.

    A condition has its objective as ``g``, a mapped objective as ``lower``.
    """
    while lower is not None and not _is_across_ranks(lower):
        lower = getattr(lower, "g", getattr(lower, "lower", None))
    return lower


def _is_across_ranks(lower: object) -> TypeGuard[AcrossRanks]:
    """Recognise an AcrossRanks; ``isinstance`` would look at each member of the protocol."""
    return hasattr(lower, "require_alike") and hasattr(lower, "on_any")


def is_indefinite(lower: object) -> bool:
    """True if an objective declares its Hessian indefinite, as ``conditions.Stationary`` does."""
    return bool(getattr(lower, "indefinite", False))


def evaluate(
    objective: Objective[Theta, Phi], theta: Theta, phi: Phi, *, role: str = "lower"
) -> Tensor:
    """The objective's values at leaves of the graph; raises if their derivative would be lost.

    ``theta`` and ``phi`` are detached trees whose leaves require grad where a derivative is
    wanted. Every other tensor that requires grad and that the values depend on is found by
    walking the graph: its derivative would silently be missing from the hypergradient. Leaves that
    the objective makes during the call (to differentiate inside, say) are its own business.

    Raises:
        InputError: not a floating-point tensor, not one value for each task, a captured tensor,
            no dependence on phi.
        NotFiniteError: a value is NaN or infinite.
    """
    return evaluate_with_graph(objective, theta, phi, role=role)[0]


def evaluate_with_graph(
    objective: Objective[Theta, Phi], theta: Theta, phi: Phi, *, role: str = "lower"
) -> tuple[Tensor, set[Any]]:
    """:func:`evaluate`, and all nodes of the graph of the values."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "inference_mode is on, under which nothing can be differentiated, not even inside; use "
            "torch.no_grad(), under which this works."
        )
    if not callable(objective):
        raise InputError(
            f"the {role} objective is a {type(objective).__name__}; give a function of "
            "(theta, phi) that returns one value for each task."
        )
    with torch.enable_grad():
        values = objective(theta, phi)
    subject = called(objective, role)
    answer: object = values  # users' objectives are checked, not believed
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        given = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(
            f"{subject} returned {given}; it must return a floating-point tensor with "
            "one value for each task."
        )
    if is_transformed(values):
        raise captured_by_transform(objective, subject)
    check_batch(phi, "phi", values.shape)
    points = leaves(phi)
    own = {id(leaf) for leaf in (*leaves(theta), *points)}
    nodes = nodes_of(values)
    reached = leaves_reached(values, nodes)
    strange = [tensor for key, tensor in reached.items() if key not in own]
    if strange:
        raise_if_captured(objective, theta, phi, subject, strange)
    for index, leaf in enumerate(points):
        if role == "lower" and leaf.requires_grad and id(leaf) not in reached:
            advice = (
                "so that a step on it alone has no derivative there; make the blocks larger, or "
                "let the loss use every leaf of phi, by weight decay say."
                if hasattr(objective, "block_name")
                else "so that nothing determines it; use it (without detach or no_grad), or leave "
                "it out of phi."
            )
            raise InputError(f"{subject} does not depend on {names(phi, 'phi')[index]}, {advice}")
    refuse_not_finite(values, subject, per_task=True)
    return values, nodes


def raise_if_captured(
    objective: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    subject: str,
    strange: Sequence[Tensor],
) -> None:
    """Raise if one of the strange leaves existed before the objective was called.

    A leaf that the objective makes is another tensor at each call; a captured one stays the same.

    Raises:
        InputError: naming the captured tensor's shape.
    """
    with torch.enable_grad():
        again = objective(theta, phi)
    kept = leaves_reached(again, nodes_of(again))
    for tensor in strange:
        if id(tensor) in kept:
            raise InputError(
                f"{subject} uses a tensor of shape {tuple(tensor.shape)} that requires "
                "grad and is neither in theta nor in phi: its derivative would silently be lost. "
                "Add it to theta, or detach() it if it is meant to be constant."
            )


def examine(
    lower: Objective[Theta, Phi], theta: Theta, phi: Phi, *, need_theta: bool = True
) -> Tensor:
    """Check at the time of the call what backward will rely on; returns g's values, ``(*batch,)``.

    Of a saddle they are the norms of its equation, see :func:`hypergrad.equation.size_of`.
    Costs one evaluation of ``lower``. ``need_theta`` says whether it must depend on theta.

    Raises:
        InputError: see :func:`evaluate`; or theta and phi differ in device or dtype; or ``lower``
            does not depend on theta.
        NotFiniteError: a value is NaN or infinite.
    """
    check_tree(theta, "theta")
    check_tree(phi, "phi")
    check_same_kind(theta, phi)
    probes = like(theta, (fresh_leaf(leaf) for leaf in leaves(theta)))
    points = like(phi, (fresh_leaf(leaf) for leaf in leaves(phi)))
    values, nodes = evaluate_with_graph(lower, probes, points)
    reached = leaves_reached(values, nodes)
    if need_theta and not any(id(leaf) in reached for leaf in leaves(probes)):
        raise no_dependence(called(lower), "phi" if isinstance(lower, Saddle) else "the minimiser")
    return size_of(lower, values, points)
