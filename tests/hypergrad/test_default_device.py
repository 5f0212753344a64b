"""Tensors that the library makes are on the data's device, whatever torch's default is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    LBFGS,
    MINRES,
    Bilevel,
    Cholesky,
    GradientDescent,
    Nesterov,
    Neumann,
    Newton,
    NormalCG,
    TorchOptimiser,
    Truncated,
    argmin,
    hypergradient,
)
from hypergrad.linear.preconditioners import Jacobi, Nystrom
from hypergrad.linear.solution import LinearSolver
from hypergrad.lower.minimum import LowerSolver
from hypergrad.objectives import SoftmaxRegression
from hypergrad.theory import WarmStarts, extreme_eigenvalues

MATRIX = torch.diag(torch.tensor([1.0, 4.0, 2.0]))
THETA = torch.ones(3)
PHI = THETA / MATRIX.diagonal()


def lower(theta: Tensor, phi: Tensor) -> Tensor:
    return ((phi @ MATRIX) * phi).sum(-1) / 2 - (theta * phi).sum(-1)


PROBLEM = Bilevel(upper=lambda theta, phi: phi.square().sum() + 0 * theta.sum(), lower=lower)
ADJOINTS: list[LinearSolver] = [
    CG(),
    CG(preconditioner=Jacobi()),
    CG(preconditioner=Nystrom(rank=2)),
    MINRES(),
    NormalCG(),
    Cholesky(),
    Neumann(max_steps=5, step_size=0.2),
]
LOWERS: list[LowerSolver] = [
    GradientDescent(max_steps=5, step_size=0.2, rtol=1e-3),
    Nesterov(max_steps=5, step_size=0.2, rtol=1e-3),
    LBFGS(),
    Newton(),
    TorchOptimiser(make=lambda own: torch.optim.SGD(own, lr=0.1), max_steps=5, rtol=1e-3),
]


def adjoint_by(solver: LinearSolver) -> Tensor:
    return hypergradient(PROBLEM, THETA, PHI, solver=solver).grad


def minimised_by(by: LowerSolver) -> Tensor:
    return by.minimise(lower, THETA, 0 * PHI).phi


RUNS: dict[str, Callable[[], Tensor]] = {
    **{str(solver): partial(adjoint_by, solver) for solver in ADJOINTS},
    **{type(by).__name__: partial(minimised_by, by) for by in LOWERS},
    "truncated": lambda: argmin(
        lower, THETA, 0 * PHI, by=LOWERS[0], adjoint=Truncated(steps=2)
    ).detach(),
    "eigenvalues": lambda: extreme_eigenvalues(lower, THETA, PHI).largest_error,
}


@pytest.mark.parametrize("name", RUNS)
def test_the_default_device_changes_nothing(name: str) -> None:
    plain = RUNS[name]()
    with torch.device("meta"):
        found = RUNS[name]()
    assert torch.equal(found, plain)


def test_states_are_saved_on_the_cpu() -> None:
    starts = WarmStarts(first=torch.zeros(2)).updated([1], torch.ones(1, 2), torch.ones(1, 2))
    with torch.device("meta"):
        back: WarmStarts[Tensor] = WarmStarts.from_state(starts.state_dict())
    assert torch.equal(back.phi[1], torch.ones(2))


def test_labels_and_heads_stay_where_they_are() -> None:
    objective = SoftmaxRegression(torch.tensor([0, 1]), 0.1)
    x, head = torch.ones(2, 3), torch.ones(2, 3)
    plain = objective.hessian(x, head).inverse(torch.ones(6))
    with torch.device("meta"):
        found = objective.hessian(x, head).inverse(plain.new_ones(6))
    assert torch.equal(found, plain)
