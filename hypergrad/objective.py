"""Objectives: one value for each task, and what must hold before one can be differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

import torch
from torch import Tensor

from hypergrad.errors import InputError, NotFiniteError
from hypergrad.guards import may_look, refuse
from hypergrad.tree import (
    Phi,
    Theta,
    check_batch,
    check_same_kind,
    check_tree,
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


def evaluate(
    objective: Objective[Theta, Phi], theta: Theta, phi: Phi, *, role: str = "lower"
) -> Tensor:
    """The objective's values at leaves of the graph, refused if their derivative would be lost.

    ``theta`` and ``phi`` are detached trees whose leaves require grad where a derivative is
    wanted. Every other tensor that requires grad and that the values depend on is found by
    walking the graph: its derivative would silently be missing from the hypergradient.

    Raises:
        InputError: not a floating-point tensor, not one value for each task, a captured tensor,
            no dependence on phi.
        NotFiniteError: a value is NaN or infinite.
    """
    return walked(objective, theta, phi, role=role)[0]


def walked(
    objective: Objective[Theta, Phi], theta: Theta, phi: Phi, *, role: str = "lower"
) -> tuple[Tensor, set[Any]]:
    """:func:`evaluate`, and all nodes of the graph that it walked."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "inference_mode is on, under which nothing can be differentiated, not even inside; use "
            "torch.no_grad(), under which this works."
        )
    with torch.enable_grad():
        values = objective(theta, phi)
    answer: object = values  # users' objectives are checked, not believed
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        given = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(
            f"the {role} objective returned {given}; it must return a floating-point tensor with "
            "one value for each task."
        )
    check_batch(phi, "phi", values.shape)
    own = {id(leaf) for tree in (theta, phi) for leaf in leaves(tree)}
    nodes = _graph(values)
    reached = _reached(values, nodes)
    for tensor in reached.values():
        if id(tensor) not in own:
            raise InputError(
                f"the {role} objective uses a tensor of shape {tuple(tensor.shape)} that requires "
                "grad and is neither in theta nor in phi: its derivative would silently be lost. "
                "Add it to theta, or detach() it if it is meant to be constant."
            )
    for label, leaf in zip(names(phi, "phi"), leaves(phi), strict=True):
        if leaf.requires_grad and id(leaf) not in reached:
            raise InputError(
                f"the {role} objective does not depend on {label}, so nothing determines its "
                "minimiser; use it (without detach or no_grad), or leave it out of phi."
            )
    refuse_not_finite(values, f"the {role} objective", per_task=True)
    return values, nodes


def examine(lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Tensor:
    """Check at the time of the call what backward will rely on; returns g's values, ``(*batch,)``.

    Costs one evaluation of ``lower``.

    Raises:
        InputError: see :func:`evaluate`; or theta and phi differ in device or dtype; or ``lower``
            does not depend on theta.
        NotFiniteError: a value is NaN or infinite.
    """
    check_tree(theta, "theta")
    check_tree(phi, "phi")
    check_same_kind(theta, phi)
    probes = like(theta, (fresh_leaf(leaf) for leaf in leaves(theta)))
    values, nodes = walked(lower, probes, like(phi, (fresh_leaf(leaf) for leaf in leaves(phi))))
    reached = _reached(values, nodes)
    if not any(id(leaf) in reached for leaf in leaves(probes)):
        raise no_dependence()
    return values.detach()


def refuse_other_values(now: Tensor, then: Tensor) -> None:
    """Refuse an objective whose values at the same point have changed between two evaluations.

    Equal up to the order of sums: the square root of the precision is far more than that, and far
    less than what dropout does.

    Raises:
        InputError: with both values of the first task that changed.
    """
    bound = torch.finfo(now.dtype).eps ** 0.5 * torch.maximum(now.abs(), then.abs())
    changed = (now - then).abs() > bound

    def error() -> InputError:
        index = _index(changed) if changed.ndim else ()
        return InputError(
            f"the lower objective returned {float(then[index]):.6g} when phi was attached and "
            f"{float(now[index]):.6g} at the same point in backward. If it draws random numbers "
            "(dropout?), fix them outside of it or call eval(); if something that it captures was "
            "changed meanwhile (a buffer, a loop variable), pass that as a copy."
        )

    refuse(changed.any(), error)


def no_dependence() -> InputError:
    """The refusal of a lower objective whose minimiser can't move with theta."""
    return InputError(
        "the minimiser does not depend on theta: the lower objective does not use theta, or uses "
        "it apart from phi, or under detach or no_grad, so that the hypergradient through it is "
        "zero everywhere. Use theta inside the lower objective."
    )


def fresh_leaf(tensor: Tensor, *, requires_grad: bool = True) -> Tensor:
    """The same values as a new leaf of the graph."""
    return tensor.detach().requires_grad_(requires_grad)


def refuse_not_finite(tensor: Tensor, what: str, *, per_task: bool) -> None:
    """Raise if a value is NaN or infinite, naming the first task; under `deferred`, at its end.

    Args:
        tensor: shape ``(*batch,)`` if ``per_task``, else ``(*batch, n)``.
        what: the quantity, for the message.
        per_task: whether each entry is a task's only value.

    Raises:
        NotFiniteError: with the task's index.
    """
    # one look if all is well: no sum is finite that has NaN or infinity in it
    if may_look(tensor) and math.isfinite(float(tensor.detach().sum())):
        return
    refuse_where(~(tensor.isfinite() if per_task else tensor.isfinite().all(dim=-1)), what)


def refuse_where(bad: Tensor, what: str) -> None:
    """:func:`refuse_not_finite` for who knows which tasks, ``(*batch,)``, have such a value."""

    def error() -> NotFiniteError:
        where = "" if bad.ndim == 0 else f" of task {_index(bad)}"
        more = f" ({int(bad.sum())} of {bad.numel()} tasks)" if bad.ndim else ""
        return NotFiniteError(
            f"{what}{where} is not finite{more}. Look for an overflow, a log or a division of "
            "zero; and for a lower solver that diverged (its step size must stay below 2/L)."
        )

    refuse(bad.any(), error)


def _index(mask: Tensor) -> int | tuple[int, ...]:
    first = [int(i) for i in mask.nonzero()[0]]
    return first[0] if len(first) == 1 else tuple(first)


def custom_functions(values: Tensor, *, within: Sequence[Tensor] = ()) -> list[str]:
    """Names of the user-defined autograd functions in the graph of ``values``, sorted."""
    return custom_among(_graph(values, within))


def custom_among(nodes: set[Any]) -> list[str]:
    """:func:`custom_functions`, of nodes that have been walked to."""
    kind = torch.autograd.function.BackwardCFunction
    custom = [node for node in nodes if isinstance(node, kind)]
    return sorted({type(node).__name__.removesuffix("Backward") for node in custom})


def recorded_gradient(
    values: Tensor,
    points: Sequence[Tensor],
    custom: Sequence[str],
    *,
    within: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """``d values.sum() / d points`` with its graph, refused if its derivative would be pruned.

    Functions marked once_differentiable put a node that only raises where their second derivative
    would be. Autograd prunes it unvisited, and the derivative through it is silently zero.

    Args:
        values: ``(*batch,)``, each task's own.
        points: what to differentiate in.
        custom: the :func:`custom_functions` in the graph of ``values``.
        within: tensors beyond which the graph is none of the values' own.

    Raises:
        InputError: naming the custom functions.
    """
    # the node is there only if the weights require grad, and they only if it may be
    weights = torch.ones_like(values, requires_grad=bool(custom))
    gradients = torch.autograd.grad(values, points, weights, create_graph=True)
    if custom:
        refuse_error_node(gradients, custom, within=within)
    return gradients


def refuse_error_node(
    derivatives: Sequence[Tensor | None], custom: Sequence[str], *, within: Sequence[Tensor] = ()
) -> None:
    """Refuse derivatives whose graph holds a node that only raises; see above.

    Raises:
        InputError: naming the custom functions.
    """
    graphs = (_graph(tensor, within) for tensor in derivatives if tensor is not None)
    if any(type(node).__name__ == "Error" for graph in graphs for node in graph):
        raise differentiable_once("it is marked once_differentiable, not twice.", custom)


def differentiable_once(told: str, custom: Sequence[str]) -> InputError:
    """The refusal of an operation in the lower objective that lacks a second derivative."""
    names = f" (custom functions in it: {', '.join(custom)})" if custom else ""
    return InputError(
        f"the lower objective{names} has an operation without a second derivative: {told} "
        "Use Implicit(..., curvature=FiniteDifference()), which needs first derivatives only, or "
        "write that operation so that it can be differentiated twice."
    )


def _reached(values: Tensor, nodes: set[Any]) -> dict[int, Tensor]:
    """The leaves that require grad and that ``values``, of these nodes, depends on, by identity."""
    if values.grad_fn is None:
        return {id(values): values} if values.requires_grad else {}
    leaf_nodes = (node for node in nodes if type(node).__name__ == "AccumulateGrad")
    return {id(node.variable): node.variable for node in leaf_nodes}


def _graph(values: Tensor, within: Sequence[Tensor] = ()) -> set[Any]:
    """All nodes of the graph that made ``values``, but for those that made ``within``."""
    outside: set[Any] = {tensor.grad_fn for tensor in within}
    first = values.grad_fn
    pending: list[Any] = [] if first is None or first in outside else [first]
    seen: set[Any] = outside | set(pending)
    while pending:
        for node, _ in pending.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                pending.append(node)
    return seen - outside
