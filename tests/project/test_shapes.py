"""The tests' own type checks: shapes by jaxtyping, other types by beartype."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.vectors import dot
from hypergrad.settings import check_max_steps
from metalearn.methods.head import scores
from tests.shapes import ManyKindsError, kind, names_shapes, once
from verification.problems.drawn import quad

Shaped: TypeAlias = dict[str, Float[Tensor, " n"] | None]


def plain(x: int, y: Tensor | None, dtype: torch.dtype) -> list[str]:
    raise NotImplementedError


def direct(x: Float[Tensor, " n"]) -> None: ...


def by_alias(x: Shaped) -> None: ...


def by_module(x: jaxtyping.Float[Tensor, " n"]) -> None: ...


def returned() -> tuple[int, Float[Tensor, " n"]]:
    raise NotImplementedError


def test_functions_whose_annotations_have_shapes_are_told_from_others() -> None:
    def unknown(x: Local) -> None: ...

    Local: TypeAlias = Shaped
    for shaped in (direct, by_alias, by_module, returned, unknown):
        assert names_shapes(shaped), shaped
    for other in (plain, lambda x: x):
        assert not names_shapes(other), other


ONE, TWO, THREE = (torch.ones(2, n, dtype=torch.float64) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("function", "arguments"), [(dot, (TWO, THREE)), (scores, (TWO[None], THREE[None]))]
)
def test_shapes_that_disagree_across_arguments_are_noticed(
    function: Callable[..., Any], arguments: tuple[Tensor, ...]
) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*arguments)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (check_max_steps, {"solver": 3, "max_steps": 3, "least": 1}),
        (quad, {"seed": "0", "batch": (2,), "p": 1, "q": 1, "condition": 2.0}),
    ],
)
def test_other_types_are_noticed(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    assert not names_shapes(function)
    with pytest.raises(BeartypeCallHintViolation):
        function(**arguments)


def made(answers: list[Any]) -> tuple[Callable[..., Any], list[Any]]:
    """A checked function that returns these answers in turn, and the calls that came to it."""
    seen: list[Any] = []

    def answered(x: Float[Tensor, " n"], more: Any = None) -> Float[Tensor, " n"]:
        seen.append(x)
        found: Tensor = answers[len(seen) - 1]
        return found

    return once(answered, beartype), seen  # type: ignore[arg-type]


def test_calls_of_a_kind_that_has_passed_are_checked_no_more_and_others_are() -> None:
    two = torch.ones(2)
    function, seen = made([two, two, torch.ones(3), two, "two"])
    assert function(two) is function(two)
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        function(two)
    assert function(two) is two
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        function(two)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
        function(two.long())
    assert len(seen) == 5  # the last did not come to it


@pytest.mark.parametrize(
    "more",
    [[0] * 1000, {1}, OrderedDict(a=1), MappingProxyType({})],
    ids=lambda more: type(more).__name__,
)
def test_a_call_whose_kind_is_not_told_at_a_glance_is_checked_each_time(more: Any) -> None:
    two = torch.ones(2)
    function, _ = made([two, two, torch.ones(3)])
    with pytest.raises(ManyKindsError):
        kind(more)
    for _ in range(2):
        assert function(two, more) is two
    with pytest.raises(jaxtyping.TypeCheckError):
        function(two, more)


def test_a_function_made_anew_keeps_what_has_passed() -> None:
    (first, _), (second, _) = made([torch.ones(2)]), made([torch.ones(3)])
    assert first(torch.ones(2)).shape == (2,)
    with pytest.raises(jaxtyping.TypeCheckError):
        second(torch.ones(2))


def test_kinds_are_as_different_as_annotations_can_tell() -> None:
    @dataclass
    class Own: ...

    values = [
        1, 2, 30, 1.0, None, True, False, "a", "b", Own, Own(), int, [], [1], [1.0], (1,),
        {"a": 1}, {"b": 1}, {"a": None}, torch.ones(2), torch.ones(3), torch.ones(1, 2),
        torch.ones(2).double(), torch.nn.Parameter(torch.ones(2)), np.ones(2), np.ones(3),
        np.ones(2, np.float32),
    ]  # fmt: skip
    kinds = [kind(value) for value in values]
    assert len(set(kinds)) == len(kinds)
    assert kind(torch.zeros(2)) == kind(torch.ones(2))
    assert kind([torch.zeros(2), 30]) == kind([torch.ones(2), 40])


def test_an_answer_whose_kind_is_not_told_at_a_glance_is_checked_each_time() -> None:
    answers = [[torch.ones(n)] * 1000 for n in (3, 2, 2)]

    def many(x: Float[Tensor, " n"]) -> list[Float[Tensor, " n"]]:
        return answers.pop()

    function = once(many, beartype)  # type: ignore[arg-type]
    for _ in range(2):
        assert len(function(torch.ones(2))) == 1000
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        function(torch.ones(2))
