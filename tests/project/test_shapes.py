"""The tests' own type checks: shapes by jaxtyping, other types by beartype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.vectors import dot
from hypergrad.settings import check_max_steps
from metalearn.methods.head import scores
from tests.shapes import names_shapes
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
