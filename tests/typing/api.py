"""What users' type checkers infer. This file is checked by mypy and never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_type

from torch import Tensor, nn

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    GradientDescent,
    Hypergradient,
    Implicit,
    LinearSolver,
    LowerSolver,
    Newton,
    Unrolled,
    argmin,
    attach,
    hypergradient,
    pullback,
)
from hypergrad.lower.minimum import Minimum

Dict = dict[str, Tensor]


def what_goes_in_comes_out(
    theta: Tensor,
    phi: Tensor,
    named: Dict,
    g: Callable[[Tensor, Tensor], Tensor],
    g_named: Callable[[Tensor, Dict], Tensor],
    g_theta_named: Callable[[Dict, Tensor], Tensor],
) -> None:
    by, adjoint = GradientDescent(max_steps=3, step_size=0.1), Implicit(CG())
    assert_type(attach(g, theta, phi, solver=CG()), Tensor)
    assert_type(attach(g_named, theta, named, solver=CG()), Dict)
    assert_type(argmin(g_named, theta, named, by=by, adjoint=adjoint), Dict)
    assert_type(argmin(g_theta_named, named, phi, by=by, adjoint=Unrolled()), Tensor)
    assert_type(by.minimise(g_named, theta, named), Minimum[Dict])
    problem = Bilevel(upper=g_theta_named, lower=g_theta_named)
    assert_type(hypergradient(problem, named, phi, solver=CG()), Hypergradient[Dict])
    assert_type(pullback(g, theta, phi, phi, solver=CG()), tuple[Tensor, Certificate])


def a_parameter_is_a_tensor(
    weight: nn.Parameter, phi: Tensor, g: Callable[[Tensor, Tensor], Tensor]
) -> None:
    assert_type(hypergradient(Bilevel(upper=g, lower=g), weight, phi, solver=CG()).grad, Tensor)


def protocols_are_met() -> None:
    linear: list[LinearSolver] = [CG(), Cholesky()]
    lower: list[LowerSolver] = [GradientDescent(max_steps=1, step_size=0.1), Newton()]
    assert linear
    assert lower


def refused(theta: Tensor, phi: Tensor, named: Dict, g: Callable[[Tensor, Tensor], Tensor]) -> None:
    # mypy runs with warn_unused_ignores: each line below must be an error of that kind
    attach(g, theta, phi, CG())  # type: ignore[call-arg]
    attach(g, theta, named, solver=CG())  # type: ignore[arg-type]
    attach(g, theta, phi, solver=Newton())  # type: ignore[arg-type]
    attach(g, theta, phi, solver=CG(), watch=1)  # type: ignore[arg-type]
    CG(1e-6)  # type: ignore[call-arg]
    CG().rtol = 0.1  # type: ignore[misc]
