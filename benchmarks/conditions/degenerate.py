"""Answers and words of each library where there are one-sided derivatives only.

A bound: ``|phi - theta|^2/2`` over ``phi >= 0`` at theta = (-1, 0, 1). The derivative of the sum of
phi is (0, none, 1), 0 on the left and 1 on the right in the middle. A kink: the lasso
``(phi - 1)^2/2 + theta |phi|`` at its knot theta = 1: the derivative of phi is -1 on the left and 0
on the right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviour.asked import Answer, ask
from benchmarks.behaviour.problems import KINK
from benchmarks.behaviour.torch_problems import leaf, numbers
from benchmarks.conditions.ways import OURS, jax, peer
from hypergrad import Implicit, argmin
from hypergrad.conditions import L1, Composite, Constrained, NonNegative
from hypergrad.solvers import ProximalGradient


def degenerate() -> dict[str, dict[str, dict[str, object]]]:
    """By point and library: what `ask` says."""
    points: dict[str, dict[str, Answer]] = {
        "bound": {
            OURS: lambda: _bound(_ours_on_bounds),
            "cvxpylayers": lambda: _bound(_cvxpylayers),
            "qpth": lambda: _bound(_qpth),
            "jaxopt": _jaxopt_on_bounds,
        },
        "kink": {OURS: _ours_at_kink, "sparho": _sparho, "jaxopt": _jaxopt_at_kink},
    }
    return {
        point: {package: ask(answer) for package, answer in answers.items()}
        for point, answers in points.items()
    }


def _bound(solve: Callable[[Tensor], Tensor]) -> list[float | None]:
    theta = leaf(KINK)
    return numbers(torch.autograd.grad(solve(theta).sum(), theta)[0])


def _ours_on_bounds(theta: Tensor) -> Tensor:
    lower: Any = Constrained(lambda theta, phi: (phi - theta).square().sum() / 2, NonNegative())
    start = torch.zeros(3, dtype=torch.float64)
    return argmin(lower, theta, start, by=ProximalGradient(), adjoint=Implicit())


def _ours_at_kink() -> list[float | None]:
    lower: Any = Composite(lambda _, phi: (phi - 1).square() / 2, L1(lambda theta: theta))
    theta, start = leaf(1.0), torch.zeros((), dtype=torch.float64)
    phi = argmin(lower, theta, start, by=ProximalGradient(), adjoint=Implicit())
    return numbers(torch.autograd.grad(phi, theta)[0])


def _cvxpylayers(theta: Tensor) -> Tensor:
    cvxpy = peer("cvxpy")
    phi, given = cvxpy.Variable(3), cvxpy.Parameter(3)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(phi) / 2 - given @ phi), [phi >= 0])
    layer = peer("cvxpylayers.torch").CvxpyLayer(problem, parameters=[given], variables=[phi])
    found: Tensor = layer(theta)[0]
    return found


def _qpth(theta: Tensor) -> Tensor:
    one, none = torch.eye(3).double(), torch.Tensor().double()
    solve = peer("qpth.qp").QPFunction(verbose=-1)
    found: Tensor = solve(one, -theta[None], -one, torch.zeros(3).double(), none, none)
    return found


def _jaxopt_on_bounds() -> list[float | None]:
    module, jaxopt = jax(), peer("jaxopt")
    solver = jaxopt.ProjectedGradient(
        fun=lambda phi, theta: ((phi - theta) ** 2).sum() / 2,
        projection=jaxopt.projection.projection_non_negative,
    )
    start = module.numpy.zeros(3)
    slope = module.grad(lambda theta: solver.run(start, theta=theta).params.sum())
    return [float(entry) for entry in slope(module.numpy.array(KINK))]


def _sparho() -> list[float | None]:
    sparho, numpy = peer("sparho"), peer("numpy")
    # its squares are halved and divided by the number of examples
    problem = sparho.Problem(sparho.SquaredLoss(), sparho.L1(), numpy.ones((1, 1)), numpy.ones(1))
    solved = sparho.adapters.SklearnLasso(tol=1e-12)(problem, 1.0)
    return [float(sparho.implicit_forward(problem, 1.0, solved, numpy.ones(1)))]


def _jaxopt_at_kink() -> list[float | None]:
    module, jaxopt = jax(), peer("jaxopt")
    solver = jaxopt.ProximalGradient(
        fun=lambda phi: (phi - 1) ** 2 / 2, prox=jaxopt.prox.prox_lasso, tol=1e-10
    )
    slope = module.grad(lambda theta: solver.run(module.numpy.zeros(()), theta).params)
    return [float(slope(1.0))]
