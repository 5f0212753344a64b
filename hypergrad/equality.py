"""Equality of values that may hold tensors, whose own ``==`` is entry by entry and no answer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

Kind = TypeVar("Kind")


def by_value(kind: type[Kind]) -> type[Kind]:
    """Give a frozen dataclass of settings an equality that compares tensors by dtype and entries.

    Results and data, which nobody compares, have ``eq=False`` instead: each is equal to itself.
    """

    def equal(self: Any, other: Any) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            same(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
            if field.compare
        )

    def hashed(self: Any) -> int:
        parts = (_mark(getattr(self, field.name)) for field in fields(self) if field.compare)
        return hash((type(self), *parts))

    kind.__eq__ = equal  # type: ignore[method-assign]
    kind.__hash__ = hashed  # type: ignore[method-assign]
    return kind


def same(one: Any, other: Any) -> bool:
    """True if two settings are equal: tensors by dtype, device and entries, trees by parts."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        if one is other:
            return True
        if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
            return False
        kinds = [(part.dtype, part.device, part.shape) for part in (one, other)]
        return kinds[0] == kinds[1] and torch.equal(one, other)
    if type(one) is type(other) and isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if type(one) is type(other) and isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _mark(value: Any) -> Hashable:
    """Key that equal settings share and that can be hashed."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape
    return value if isinstance(value, Hashable) and not isinstance(value, tuple) else None
