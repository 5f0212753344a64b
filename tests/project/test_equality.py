"""No dataclass compares tensors by ``==``, which is entry by entry: its equality would raise."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType, UnionType
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import hypergrad
import metalearn
from hypergrad import CG, Descent, Implicit
from hypergrad.conditions import (
    L1,
    Affine,
    Box,
    Constrained,
    ElasticNet,
    GroupL2,
    L2Ball,
    NuclearNorm,
    Simplex,
)
from hypergrad.lower.updates import Adam, AdamW, Momentum, Scaled
from hypergrad.objectives import Quadratic
from hypergrad.theory import Estimated, Proven

# Fields of any type that hold no tensors: functions, sets, settings and plain values.
PLAIN = {
    ("Composite", "plus"),
    ("Constrained", "within"),
    ("Mapped", "lower"),
    ("MappedNonSmooth", "lower"),
    ("MappedClosedForm", "lower"),
    ("Card", "settings"),
    ("Finished", "metrics"),
    ("Progress", "optimiser"),
    ("Progress", "origin"),
    ("Progress", "scaler"),
    ("Progress", "schedule"),
    ("Result", "certificate"),
    ("Result", "peak_memory"),
    ("Source", "files"),
    ("Store", "manifest"),
}


def dataclasses_of(package: ModuleType) -> Iterator[type]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and is_dataclass(value)
                and value.__module__ == module.__name__
            ):
                yield value


def holds_tensors(kind: Any) -> bool:
    """Whether a value of this type may be a tensor, or a container with one."""
    if kind is Any or isinstance(kind, TypeVar) or hasattr(kind, "array_type"):
        return True
    origin = typing.get_origin(kind)
    if origin is None:
        return isinstance(kind, type) and issubclass(kind, Tensor)
    if isinstance(origin, type) and origin is not UnionType and not issubclass(origin, Collection):
        return False  # functions, and values that are judged themselves
    return any(map(holds_tensors, typing.get_args(kind)))


def ambiguous(kind: type, localns: dict[str, Any] | None = None) -> list[str]:
    """The fields that a generated equality compares though they may hold tensors."""
    if not kind.__dataclass_params__.eq:  # type: ignore[attr-defined]
        return []
    types = typing.get_type_hints(kind, localns=localns)
    return [
        field.name
        for field in fields(kind)
        if field.compare
        and holds_tensors(types[field.name])
        and (kind.__name__, field.name) not in PLAIN
    ]


@pytest.mark.parametrize("package", [hypergrad, metalearn], ids=lambda package: package.__name__)
def test_no_dataclass_compares_tensors_entry_by_entry(package: ModuleType) -> None:
    kinds = list(dataclasses_of(package))
    assert len(kinds) > 20
    assert {f"{kind.__module__}.{kind.__name__}": ambiguous(kind) for kind in kinds} == {
        f"{kind.__module__}.{kind.__name__}": [] for kind in kinds
    }


def test_one_that_did_would_be_found() -> None:
    @dataclass(frozen=True)
    class Planted:
        weights: dict[str, Tensor] | None
        function: Callable[[Tensor], Tensor]

    assert ambiguous(Planted) == ["weights"]


def one() -> Tensor:
    return torch.ones(2)


MADE: dict[str, Callable[[Tensor], Any]] = {
    "Box": lambda t: Box(-t, t),
    "Simplex": Simplex,
    "L2Ball": L2Ball,
    "Affine": lambda t: Affine(t[None], t[:1]),
    "L1": L1,
    "ElasticNet": lambda t: ElasticNet(t, 0.5),
    "GroupL2": GroupL2,
    "NuclearNorm": NuclearNorm,
    "Constrained": lambda t: Constrained(torch.add, {"w": Box(-t, t), "b": None}),
    "Proven": Proven,
    "Estimated": Estimated,
    "Scaled": lambda t: Scaled(step_size={"w": t, "b": (t, 2 * t)}),
    "Momentum": lambda t: Momentum(step_size=t, decay=0.5),
    "Adam": lambda t: Adam(step_size=0.1, decay=t[0] / 8),
    "AdamW": lambda t: AdamW(step_size=0.1, weight_decay=t[0] / 8),
    "Descent": lambda t: Descent(update=Scaled(step_size=t), max_steps=3),
    "Implicit": lambda t: Implicit(CG(), start={"w": t}),
    "Implicit, a list": lambda t: Implicit(CG(), start=[t, (t, t)]),
}


@pytest.mark.parametrize("name", MADE)
def test_settings_are_compared_by_value(name: str) -> None:
    make = MADE[name]
    first, again, other, longer = (
        make(t) for t in (one(), one(), 3 * one(), torch.ones(2).double())
    )
    assert first == first
    assert first == again
    assert first != other
    assert first != longer  # another dtype
    assert first != name
    if name != "Constrained":  # a dict within has no hash, whatever it holds
        assert hash(first) == hash(again)


def test_numbers_and_functions_are_compared_as_ever() -> None:
    assert Box(0.0, 1.0) == Box(0.0, 1.0)
    assert Box(0.0, 1.0) != Box(0.0, torch.tensor(1.0))
    assert len({Box(0.0, 1.0), Box(0.0, 1.0), Box(0.0, 2.0)}) == 2
    assert L1(torch.exp) == L1(torch.exp)
    assert L1(torch.exp) != L1(torch.sin)


def test_data_is_equal_to_itself_alone() -> None:
    matrix, vector = torch.eye(2), torch.ones(2)
    first, again = (Quadratic(matrix, matrix, vector) for _ in range(2))
    assert first == first
    assert first != again
    assert len({first, again}) == 2
