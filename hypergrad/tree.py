"""Trees: tensors in any nesting that torch's pytree knows (dicts, lists, tuples, dataclasses).

A vector is a tree laid out flat: ``(*batch, n)`` for a tree whose leaves have the shapes
``(*batch, ...)``. Linear solvers see vectors only; nothing outside this file knows the layout.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Size, Tensor

# torch publishes its pytree under this name only, in every version from 2.6 on
from torch.utils import _pytree as pytree

from hypergrad.errors import InputError

Tree: TypeAlias = Any
"""A tensor, or tensors in nested dicts, lists, tuples or dataclasses registered with torch."""

Theta = TypeVar("Theta")
"""The upper-level variable's tree: what goes in comes out."""

Phi = TypeVar("Phi")
"""The lower-level variable's tree: what goes in comes out."""

AnyTree = TypeVar("AnyTree")

_HALF = (torch.float16, torch.bfloat16)


def leaves(tree: Tree) -> list[Tensor]:
    """The tree's tensors, in the order of its containers."""
    if isinstance(tree, Tensor):
        return [tree]
    if type(tree) is dict and all(isinstance(leaf, Tensor) for leaf in tree.values()):
        return list(tree.values())  # the common case, without torch's walk
    return pytree.tree_leaves(tree)


def entries(tree: Tree) -> list[Any]:
    """The tree's leaves, whatever they are; None is one."""
    return pytree.tree_leaves(tree)


def like(tree: AnyTree, new: Iterable[Any]) -> AnyTree:
    """A tree of the same structure that holds the leaves ``new``."""
    given: Any = tree
    if isinstance(given, Tensor):
        (made,) = new
    elif type(given) is dict and all(isinstance(leaf, Tensor) for leaf in given.values()):
        made = dict(zip(given, new, strict=True))
    else:
        made = pytree.tree_unflatten(list(new), pytree.tree_structure(given))
    return cast(AnyTree, made)


def detach(tree: AnyTree) -> AnyTree:
    """The same values, cut off from any autograd graph."""
    return like(tree, (leaf.detach() for leaf in leaves(tree)))


def hollow(tree: AnyTree) -> AnyTree:
    """The tree's structure with empty tensors: to be kept for long without keeping the values."""
    return like(tree, (leaf.detach().new_empty(0) for leaf in leaves(tree)))


def structure_text(tree: Tree) -> str:
    """The tree's structure as JSON, for :func:`tree_from_text`.

    Raises:
        InputError: a container that torch's pytree can't write down.
    """
    try:
        return pytree.treespec_dumps(pytree.tree_structure(tree))
    except NotImplementedError as error:
        raise InputError(
            f"the structure of this tree can't be saved: {error} Give dicts, lists, tuples, or "
            "dataclasses registered with a serialized_type_name."
        ) from error


def tree_from_text(text: str, new: Sequence[Tensor]) -> Any:
    """A tree of the structure that :func:`structure_text` wrote down, with the leaves ``new``."""
    return pytree.tree_unflatten(list(new), pytree.treespec_loads(text))


def names(tree: Tree, name: str) -> list[str]:
    """Labels of the leaves for messages: ``phi``, ``phi['weight']`` or ``phi['block'][0]``."""
    if isinstance(tree, Tensor):
        return [name]
    paths, _ = pytree.tree_flatten_with_path(tree)
    return [f"{name}{pytree.keystr(path)}" for path, _ in paths]


def check_tree(tree: Tree, name: str) -> None:
    """Raise for a tree that can't be differentiated: wrong type, empty, or not real floating point.

    Raises:
        InputError: naming the leaf, what it is, and what to do.
    """
    if isinstance(tree, torch.nn.Module):
        raise InputError(
            f"{name} is a module, {type(tree).__name__}; give its parameters as a dict: "
            "hypergrad.objectives.parameters(module)."
        )
    found = leaves(tree)
    if not found:
        raise InputError(f"{name} is an empty {type(tree).__name__}: nothing to differentiate.")
    for index, leaf in enumerate(found):
        if not _is_differentiable(leaf):
            raise _not_differentiable(names(tree, name)[index], leaf)


def _is_differentiable(leaf: object) -> bool:  # users' trees are checked, not believed
    return (
        isinstance(leaf, Tensor)
        and leaf.is_floating_point()
        and leaf.layout == torch.strided
        and not leaf.is_inference()
        and not hasattr(leaf, "full_tensor")
    )


def _not_differentiable(label: str, leaf: object) -> InputError:
    if not isinstance(leaf, Tensor):
        given = leaf.__name__ if isinstance(leaf, type) else f"a {type(leaf).__name__}"
        return InputError(
            f"{label} is {given}; give a tensor, or tensors in nested dicts, lists, tuples or "
            "dataclasses registered with torch.utils._pytree."
        )
    if hasattr(leaf, "full_tensor"):
        return InputError(
            f"{label} is a {type(leaf).__name__}, of which this rank holds a part, and norms "
            "and inner products of it would be the part's; give it whole, .full_tensor(), "
            "which autograd differentiates, and see docs/guides/distributed.md."
        )
    if leaf.layout != torch.strided:
        return InputError(f"{label} is {leaf.layout}; give it as a dense tensor, .to_dense().")
    if leaf.is_inference():
        return InputError(
            f"{label} was made under inference_mode, which leaves it without derivatives for "
            "good; make it under torch.no_grad(), or clone() it."
        )
    return InputError(
        f"{label} has dtype {leaf.dtype}, which has no derivative; give it as floating "
        "point, or let the objective hold it (a closure or a field) if it is plain data."
    )


def precision(tree: Tree) -> torch.dtype:
    """The widest dtype among the leaves: the one that vectors of this tree have."""
    if isinstance(tree, Tensor):
        return tree.dtype
    first, *others = leaves(tree)
    return functools.reduce(torch.promote_types, (leaf.dtype for leaf in others), first.dtype)


def check_same_kind(theta: Tree, phi: Tree) -> None:
    """Raise for leaves on different devices, and for a theta and a phi of different precision.

    Within a tree dtypes may be mixed (a module's parameters may be); vectors have the widest.

    Raises:
        InputError: naming what differs.
    """
    device = leaves(phi)[0].device
    for tree, name in ((phi, "phi"), (theta, "theta")):
        for index, leaf in enumerate(leaves(tree)):
            if leaf.device != device:
                raise InputError(
                    f"{names(tree, name)[index]} is on {leaf.device}, but {names(phi, 'phi')[0]} "
                    f"is on {device}; bring both to one device with .to(...)."
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


def full_precision(phi: Tree) -> AbstractContextManager[object]:
    """Leave autocast: lower levels and adjoint systems are solved in the precision of phi."""
    tensor = leaves(phi)[0]
    if _autocast_is_on(tensor):
        return torch.autocast(tensor.device.type, enabled=False)
    return nullcontext()


def _autocast_is_on(tensor: Tensor) -> bool:
    if tensor.is_cpu:
        return torch.is_autocast_enabled("cpu")
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def check_batch(tree: Tree, name: str, batch: Size) -> None:
    """Raise for a tree whose leaves don't begin with the dimensions ``batch``.

    Raises:
        InputError: naming the leaf, its shape and the batch shape.
    """
    for index, leaf in enumerate(leaves(tree)):
        if leaf.shape[: len(batch)] != batch:
            label = names(tree, name)[index]
            raise InputError(
                f"{label} has shape {tuple(leaf.shape)}, but the objective returned values of "
                f"shape {tuple(batch)}, one for each task: {label} must begin with the dimensions "
                f"{tuple(batch)}. Sum the objective over everything but the tasks."
            )


def flatten(tensors: Sequence[Tensor], batch: Size) -> Float[Tensor, "*batch n"]:
    """Leaves of shape ``(*batch, ...)`` as one vector for each task, dense, never in 16 bits."""
    if len(tensors) == 1:
        vector = _dense(tensors[0])
        if vector.ndim != len(batch) + 1:
            vector = _rows(vector, batch)
    else:  # cat takes the widest dtype
        vector = torch.cat([_rows(_dense(tensor), batch) for tensor in tensors], dim=-1)
    return vector.float() if vector.dtype in _HALF else vector


def joined(tensors: list[Tensor], batch: Size) -> Float[Tensor, "*batch n"]:
    """:func:`flatten`, which empties the list: no leaf stays beside the copy that a row may be."""
    if len(tensors) == 1:
        return flatten(tensors, batch)
    tensors.reverse()
    rows = [_rows(_dense(tensors.pop()), batch) for _ in range(len(tensors))]
    return flatten([torch.cat(rows, dim=-1)], batch)


def dense(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors, dense where an operation (a sparse embedding, say) made them sparse."""
    return [_dense(tensor) for tensor in tensors]


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _rows(tensor: Tensor, batch: Size) -> Tensor:
    """A leaf as one row for each task; the length is computed, since -1 can't be of no tasks."""
    return tensor.reshape(*batch, tensor.shape[len(batch) :].numel())


def unflatten(vector: Float[Tensor, "*batch n"], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Undo :func:`flatten`: parts of ``vector`` with the shapes and dtypes of ``tensors``."""
    batch = vector.shape[:-1]
    sizes = [tensor.shape[len(batch) :].numel() for tensor in tensors]
    parts = torch.split(vector, sizes, dim=-1)
    pairs = zip(parts, tensors, strict=True)
    return [part.reshape(tensor.shape).to(tensor.dtype) for part, tensor in pairs]


def vector_of(tree: Tree, shaped_as: Tree, name: str, batch: Size) -> Float[Tensor, "*batch n"]:
    """A tree that must have the structure and shapes of another, as a vector.

    A dict's order of keys does not matter.

    Raises:
        InputError: if a key or a shape differs.
    """
    given = dict(zip(names(tree, name), leaves(tree), strict=True))
    wanted = dict(zip(names(shaped_as, name), leaves(shaped_as), strict=True))
    if given.keys() != wanted.keys():
        raise InputError(
            f"{name} has the leaves {', '.join(given)}; like phi it must have the leaves "
            f"{', '.join(wanted)}."
        )
    for label, other in wanted.items():
        if given[label].shape != other.shape:
            raise InputError(
                f"{label} has shape {tuple(given[label].shape)}; like phi it must have shape "
                f"{tuple(other.shape)}."
            )
    return flatten([given[label].detach() for label in wanted], batch)


def fresh_leaf(tensor: Tensor, *, requires_grad: bool = True) -> Tensor:
    """The same values as a new leaf of the graph."""
    return tensor.detach().requires_grad_(requires_grad)
