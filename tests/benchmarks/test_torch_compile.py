"""The forms that benchmarks/torch_compile.py compiles give the hypergradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor

from benchmarks.peer_cases import CONDITION, Case, quadratic
from benchmarks.peer_entries import RTOL
from benchmarks.torch_compile import Compiler, one_step, product_only


@pytest.mark.parametrize("form", [product_only, one_step])
def test_uncompiled_they_are_the_hypergradient(
    form: Callable[[Case, Compiler], Callable[[], Tensor]],
) -> None:
    case = quadratic(6)
    # a residual of RTOL is passed on by the condition number
    assert case.error(form(case, lambda function: function)()) <= RTOL * CONDITION
    other = replace(case, lower=lambda theta, phi: case.lower(1.1 * theta, phi))
    wrong = form(other, lambda function: function)()
    assert case.error(wrong) == pytest.approx(0.1, rel=1e-3)
