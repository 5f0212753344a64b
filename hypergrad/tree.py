"""Trees: one tensor, or a dict of named tensors (a module's parameters, say).

A vector is a tree laid out flat: ``(*batch, n)`` for a tree whose leaves have the shapes
``(*batch, ...)``. Linear solvers see vectors only; nothing outside this file knows the layout.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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

_HALF = (torch.float16, torch.bfloat16)


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
        if leaf.layout != torch.strided:
            raise InputError(f"{label} is {leaf.layout}; give it as a dense tensor, .to_dense().")
        if leaf.is_inference():
            raise InputError(
                f"{label} was made under inference_mode, which leaves it without derivatives for "
                "good; make it under torch.no_grad(), or clone() it."
            )
        if not leaf.is_floating_point():
            raise InputError(
                f"{label} has dtype {leaf.dtype}, which has no derivative; give it as floating "
                "point, or let the objective hold it (a closure or a field) if it is plain data."
            )


def precision(tree: Tree) -> torch.dtype:
    """The widest dtype among the leaves: the one that vectors of this tree have."""
    return functools.reduce(torch.promote_types, (leaf.dtype for leaf in leaves(tree)))


def check_same_kind(theta: Tree, phi: Tree) -> None:
    """Refuse leaves on different devices, and a theta and a phi of different precision.

    Within a tree dtypes may be mixed (a module's parameters may be); vectors have the widest.

    Raises:
        InputError: naming what differs.
    """
    (first, *_), (label, *_) = leaves(phi), names(phi, "phi")
    for tree, name in ((phi, "phi"), (theta, "theta")):
        for other, leaf in zip(names(tree, name), leaves(tree), strict=True):
            if leaf.device != first.device:
                raise InputError(
                    f"{other} is on {leaf.device}, but {label} is on {first.device}; bring both to "
                    "one device with .to(...)."
                )
    if precision(theta) != precision(phi):
        raise InputError(
            f"theta is {precision(theta)}, but phi is {precision(phi)}: the lower level would be "
            "solved in one precision and differentiated in another; bring both to one dtype with "
            ".to(...)."
        )


def widened(theta: AnyTree, phi: Tree) -> AnyTree:
    """Under autocast, theta's 16-bit leaves in phi's precision; otherwise theta itself.

    Autocast gives 16-bit features, and the lower level is solved outside of it, in full precision.
    The cast is part of theta's graph, so the hypergradient returns in the leaf's own dtype.
    """
    if not _autocast_is_on(leaves(phi)[0]):
        return theta
    wide = precision(phi)
    return like(theta, (leaf.to(wide) if leaf.dtype in _HALF else leaf for leaf in leaves(theta)))


@contextmanager
def full_precision(phi: Tree) -> Iterator[None]:
    """Leave autocast: lower levels and adjoint systems are solved in the precision of phi."""
    tensor = leaves(phi)[0]
    if _autocast_is_on(tensor):
        with torch.autocast(tensor.device.type, enabled=False):
            yield
    else:
        yield


def _autocast_is_on(tensor: Tensor) -> bool:
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


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
    """Leaves of shape ``(*batch, ...)`` as one vector for each task, never in 16 bits."""
    if len(tensors) == 1:
        vector = tensors[0]
        if vector.ndim != len(batch) + 1:
            vector = vector.reshape(*batch, -1)
    else:  # cat takes the widest dtype
        vector = torch.cat([tensor.reshape(*batch, -1) for tensor in tensors], dim=-1)
    return vector.float() if vector.dtype in _HALF else vector


def unflatten(vector: Float[Tensor, "*batch n"], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Undo :func:`flatten`: parts of ``vector`` with the shapes and dtypes of ``tensors``."""
    batch = vector.shape[:-1]
    sizes = [tensor.shape[len(batch) :].numel() for tensor in tensors]
    parts = torch.split(vector, sizes, dim=-1)
    pairs = zip(parts, tensors, strict=True)
    return [part.reshape(tensor.shape).to(tensor.dtype) for part, tensor in pairs]


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
