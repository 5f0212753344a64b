"""Autograd graphs: what a value depends on, and operations without a second derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hypergrad.engine import LeafNode, pulled
from hypergrad.errors import InputError

INSTEAD = "Use Implicit(..., curvature=FiniteDifference()), which needs first derivatives only"


def custom_functions(values: Tensor, *, within: Sequence[Tensor] = ()) -> list[str]:
    """Names of the user-defined autograd functions in the graph of ``values``, sorted."""
    return custom_among(nodes_of(values, within))


def custom_among(nodes: set[Any]) -> list[str]:
    """:func:`custom_functions`, of nodes that have been walked to; this library's are left out."""
    kind = torch.autograd.function.BackwardCFunction
    custom = [
        node
        for node in nodes
        if isinstance(node, kind)
        and not getattr(type(node), "_forward_cls", kind).__module__.startswith("hypergrad.")
    ]
    return sorted({type(node).__name__.removesuffix("Backward") for node in custom})


def recorded_gradient(
    values: Tensor,
    points: Sequence[Tensor],
    custom: Sequence[str],
    *,
    within: Sequence[Tensor] = (),
    instead: str = INSTEAD,
) -> tuple[Tensor, ...]:
    """``d values.sum() / d points`` with its graph, refused if its derivative would be pruned.

    Functions marked once_differentiable put a node that only raises where their second derivative
    would be. Autograd prunes it unvisited, and the derivative through it is silently zero.

    Args:
        values: ``(*batch,)``, each task's own.
        points: leaves or intermediate tensors, in which it is differentiated.
        custom: the :func:`custom_functions` in the graph of ``values``.
        within: tensors beyond which the graph is none of the values' own.
        instead: the way round, for the message.

    Raises:
        InputError: naming the custom functions.
    """
    raise_if_compiled(custom, instead=instead)
    # the node is there only if the weights require grad, and they only if it may be
    weights = torch.ones_like(values, requires_grad=bool(custom))
    found = pulled(values, points, weights, record=True, unused=False)
    gradients = cast(tuple[Tensor, ...], found)
    if custom:
        raise_if_error_node(gradients, custom, within=within, instead=instead)
    return gradients


def raise_if_compiled(custom: Sequence[str], *, instead: str = INSTEAD) -> None:
    """Raise for code compiled by torch.compile, whose backward answers without a graph.

    Its part of H and J would silently be left out.

    Raises:
        InputError: naming the custom functions.
    """
    if "CompiledFunction" in custom:
        reason = "torch.compile made it, for one derivative only."
        raise differentiable_once(reason, custom, instead)


def raise_if_error_node(
    derivatives: Sequence[Tensor | None],
    custom: Sequence[str],
    *,
    within: Sequence[Tensor] = (),
    instead: str = INSTEAD,
) -> None:
    """Raise if the graph of derivatives holds a node that only raises; see above.

    Raises:
        InputError: naming the custom functions.
    """
    graphs = (nodes_of(tensor, within) for tensor in derivatives if tensor is not None)
    kinds = {type(node).__name__ for graph in graphs for node in graph}
    if "Error" in kinds:
        raise differentiable_once("it is marked once_differentiable, not twice.", custom, instead)
    if "NotImplemented" in kinds:
        raise differentiable_once("torch has none for it.", custom, instead)


class explained:
    """Context in which torch's error for a missing second derivative says what to do.

    Raises:
        InputError: naming the custom functions.
    """

    def __init__(self, custom: Sequence[str] = (), *, instead: str = INSTEAD) -> None:
        self._custom, self._instead = custom, instead

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, RuntimeError):  # NotImplementedError is one
            explain(error, self._custom, self._instead)


def explain(error: RuntimeError, custom: Sequence[str], instead: str) -> None:
    """Raise what to do if this is torch's error for a missing second derivative.

    Raises:
        InputError: naming the custom functions.
    """
    reason = str(error)
    if any(words in reason for words in ("twice", "not implemented", "double backward")):
        raise differentiable_once(f"{reason.rstrip('.')}.", custom, instead) from error


def differentiable_once(reason: str, custom: Sequence[str], instead: str = INSTEAD) -> InputError:
    """The refusal of an operation in the lower objective that lacks a second derivative."""
    names = f" (custom functions in it: {', '.join(custom)})" if custom else ""
    return InputError(
        f"the lower objective{names} has an operation without a second derivative: {reason} "
        f"{instead}, or write that operation so that it can be differentiated twice."
    )


def no_dependence(
    subject: str = "the lower objective", solution: str = "the minimiser"
) -> InputError:
    """The refusal of a lower objective, or an equation, whose solution can't move with theta."""
    apart = " apart from phi, or" if solution == "the minimiser" else ""
    return InputError(
        f"{solution} does not depend on theta: {subject} does not use theta, or uses it{apart} "
        "under detach or no_grad, so that the hypergradient through it is zero everywhere. Use "
        f"theta inside {subject}."
    )


def leaves_reached(values: Tensor, nodes: set[Any]) -> dict[int, Tensor]:
    """The leaves that require grad and that ``values``, of these nodes, depends on, by identity."""
    if values.grad_fn is None:
        return {id(values): values} if values.requires_grad else {}
    found = [node.variable for node in nodes if isinstance(node, LeafNode)]
    return {id(leaf): leaf for leaf in found}


def nodes_of(values: Tensor, within: Sequence[Tensor] = ()) -> set[Any]:
    """All nodes of the graph that made ``values``, but for those that made ``within``."""
    outside: set[Any] = {tensor.grad_fn for tensor in within}
    first = values.grad_fn
    pending: list[Any] = [] if first is None or first in outside else [first]
    seen: set[Any] = outside | set(pending)
    take, add = pending.pop, seen.add  # once a node
    while pending:
        for node, _ in take().next_functions:
            if node is not None and node not in seen:
                add(node)
                pending.append(node)
    return seen - outside if outside else seen
