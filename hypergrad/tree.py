"""Trees: one tensor, or a dict of named tensors (a module's parameters, say).

A vector is a tree laid out flat: ``(*batch, n)`` for a tree whose leaves have the shapes
``(*batch, ...)``. Linear solvers see vectors only; nothing outside this file knows the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Size, Tensor

from hypergrad.errors import InputError

Tree: TypeAlias = Tensor | dict[str, Tensor]
"""One tensor, or named tensors."""

Theta = TypeVar("Theta", Tensor, dict[str, Tensor])
"""The upper-level variable's tree: what goes in comes out."""

Phi = TypeVar("Phi", Tensor, dict[str, Tensor])
"""The lower-level variable's tree: what goes in comes out."""

AnyTree = TypeVar("AnyTree", Tensor, dict[str, Tensor])


def leaves(tree: Tree) -> list[Tensor]:
    """The tree's tensors, in the order of its keys."""
    return [tree] if isinstance(tree, Tensor) else list(tree.values())


def like(tree: AnyTree, new: Iterable[Tensor]) -> AnyTree:
    """A tree of the same structure that holds the tensors ``new``."""
    if isinstance(tree, Tensor):
        (tensor,) = new
        return tensor
    return dict(zip(tree, new, strict=True))


def detach(tree: AnyTree) -> AnyTree:
    """The same values, cut off from any autograd graph."""
    return like(tree, (leaf.detach() for leaf in leaves(tree)))


def names(tree: Tree, name: str) -> list[str]:
    """How to call each leaf in a message: ``phi`` or ``phi['weight']``."""
    return [name] if isinstance(tree, Tensor) else [f"{name}[{key!r}]" for key in tree]


def check_tree(tree: Tree, name: str) -> None:
    """Refuse a tree that can't be differentiated: wrong type, empty, or not real floating point.

    Raises:
        InputError: naming the leaf, what it is, and what to do.
    """
    given: object = tree  # users' trees are checked, not believed
    if not isinstance(given, Tensor | dict):
        raise InputError(
            f"{name} is a {type(tree).__name__}; give a tensor or a dict of named tensors."
        )
    if isinstance(tree, dict) and not tree:
        raise InputError(f"{name} is an empty dict: there is nothing to differentiate.")
    for label, leaf in zip(names(tree, name), leaves(tree), strict=True):
        entry: object = leaf
        if not isinstance(entry, Tensor):
            raise InputError(f"{label} is a {type(entry).__name__}; every leaf must be a tensor.")
        if not leaf.is_floating_point():
            raise InputError(
                f"{label} has dtype {leaf.dtype}, which has no derivative; give it as floating "
                "point, or let the objective hold it (a closure or a field) if it is plain data."
            )


def check_same_kind(theta: Tree, phi: Tree) -> None:
    """Refuse leaves that live on different devices or have different dtypes.

    Raises:
        InputError: naming the first leaf that differs from the first leaf of phi.
    """
    (first, *_), (label, *_) = leaves(phi), names(phi, "phi")
    for tree, name in ((phi, "phi"), (theta, "theta")):
        for other, leaf in zip(names(tree, name), leaves(tree), strict=True):
            if leaf.device != first.device or leaf.dtype != first.dtype:
                raise InputError(
                    f"{other} is {leaf.dtype} on {leaf.device}, but {label} is {first.dtype} on "
                    f"{first.device}; bring both to one dtype and device with .to(...)."
                )


def check_batch(tree: Tree, name: str, batch: Size) -> None:
    """Refuse a tree whose leaves don't begin with the dimensions ``batch``.

    Raises:
        InputError: naming the leaf, its shape and the batch shape.
    """
    for label, leaf in zip(names(tree, name), leaves(tree), strict=True):
        if leaf.shape[: len(batch)] != batch:
            raise InputError(
                f"{label} has shape {tuple(leaf.shape)}, but the objective returned values of "
                f"shape {tuple(batch)}, one for each task: {label} must begin with the dimensions "
                f"{tuple(batch)}. Sum the objective over everything but the tasks."
            )


def flatten(tensors: Sequence[Tensor], batch: Size) -> Float[Tensor, "*batch n"]:
    """Leaves of shape ``(*batch, ...)`` as one vector for each task."""
    flat = [tensor.reshape(*batch, -1) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)


def unflatten(vector: Float[Tensor, "*batch n"], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Undo :func:`flatten`: views of ``vector`` with the shapes of ``tensors``."""
    batch = vector.shape[:-1]
    sizes = [tensor.shape[len(batch) :].numel() for tensor in tensors]
    parts = torch.split(vector, sizes, dim=-1)
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def vector_of(tree: Tree, shaped_as: Tree, name: str, batch: Size) -> Float[Tensor, "*batch n"]:
    """A tree that must have the structure and shapes of another, as a vector.

    Raises:
        InputError: if a key or a shape differs.
    """
    same_keys = (
        tree.keys() == shaped_as.keys()
        if isinstance(tree, dict) and isinstance(shaped_as, dict)
        else type(tree) is type(shaped_as) or not isinstance(tree, dict)
    )
    if not same_keys or isinstance(tree, dict) != isinstance(shaped_as, dict):
        raise InputError(f"{name} must be a tree like phi: the same keys, the same shapes.")
    if isinstance(tree, dict):
        tree = {key: tree[key] for key in cast(dict[str, Tensor], shaped_as)}
    for label, leaf, other in zip(names(tree, name), leaves(tree), leaves(shaped_as), strict=True):
        if leaf.shape != other.shape:
            raise InputError(
                f"{label} has shape {tuple(leaf.shape)}; like phi it must have shape "
                f"{tuple(other.shape)}."
            )
    return flatten([leaf.detach() for leaf in leaves(tree)], batch)
