"""A solver's word about itself is not taken: the residual is that of its x, at no extra product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    MINRES,
    Bilevel,
    Cholesky,
    Neumann,
    NormalCG,
    Solution,
    Status,
    attach,
    check,
    hypergradient,
    strict,
)
from hypergrad.errors import AdjointError, InputError
from hypergrad.guards import deferred
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.operator import SHORT, Operator
from hypergrad.linear.solution import LinearMap, LinearSolver, verified
from tests.hypergrad.problems import Q, Toy

TOY = Toy((3,))
PHI = TOY.minimiser()
EPS = torch.finfo(torch.float64).eps


def upper(theta: Tensor, phi: Tensor) -> Tensor:
    return (phi - 1).square().sum(-1) + 0 * theta.sum()


@dataclass(frozen=True)
class Liar:
    """Answers with a wrong x, and calls it exact."""

    spoil: Callable[[Tensor], Tensor]
    multiplies: bool  # whether its last product is with the x that it spoils afterwards

    def solve(self, apply: LinearMap, rhs: Tensor, start: Tensor | None = None) -> Solution:
        honest = Cholesky().solve(apply, rhs, start)
        if self.multiplies:
            apply(honest.x)
        return replace(honest, x=self.spoil(honest.x), residual=0 * honest.residual)


LIARS: list[LinearSolver] = [
    Liar(lambda x: 1.5 * x, False),
    Liar(lambda x: x.mul_(1.5), True),  # the very tensor of the last product
    Liar(lambda x: 0 * x, True),
    Liar(lambda x: torch.cat([x[:1], 1.5 * x[1:]]), True),
]


@pytest.mark.parametrize("solver", LIARS)
def test_a_wrong_residual_is_reported(solver: LinearSolver) -> None:
    problem = Bilevel(upper=upper, lower=TOY.lower)
    certificate = hypergradient(problem, TOY.theta, PHI, solver=solver).certificate
    adjoint = certificate.adjoint
    assert not certificate.solved.all()
    rhs = 2 * (PHI - 1)
    truth = rhs - Linearisation(TOY.lower, TOY.theta, PHI).product(adjoint.x)
    relative = truth.norm(dim=-1) / rhs.norm(dim=-1)
    assert torch.allclose(adjoint.residual, relative, rtol=1e-12, atol=100 * Q * EPS)
    assert torch.equal(adjoint.status == Status.MISREPORTED, relative > 1e-8)
    theta = TOY.theta.clone().requires_grad_()
    node = attach(TOY.lower, theta, PHI, solver=solver, watch=strict)
    with pytest.raises(AdjointError, match=r"MISREPORTED, the solver called"):
        upper(theta, node).sum().backward()


def test_check_finds_the_liar() -> None:
    report = check(Bilevel(upper=upper, lower=TOY.lower), TOY.theta, PHI, solver=LIARS[0])
    assert not report.passed
    assert "MISREPORTED" in str(report)


class Counting:
    """A map that counts its products."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.count += 1
        product: Tensor = (TOY.a @ vector[..., None])[..., 0]
        return product


@pytest.mark.parametrize("size", [0.0, 1e-200, 3.0, 1e200], ids=str)
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "solver",
    [
        CG(),
        CG(max_steps=1, rtol=0.0),
        CG(damping=0.1),
        MINRES(),
        NormalCG(),
        Neumann(step_size=0.1, max_steps=4),
        Cholesky(),
    ],
    ids=str,
)
def test_an_honest_solver_is_believed_without_a_product(
    solver: LinearSolver, size: float, warm: bool
) -> None:
    rhs = size * (PHI - 1)
    start = rhs / 5 if warm else None
    alone, watched = Counting(), Counting()
    plain = solver.solve(alone, rhs, start)
    operator = Operator(watched)
    seen = verified(solver.solve(operator, rhs, start), operator, rhs)
    assert watched.count == alone.count
    assert seen.matvecs == plain.matvecs
    assert torch.equal(seen.x, plain.x)
    assert torch.equal(seen.status, plain.status)
    # the same residual, scaled
    assert torch.allclose(seen.residual, plain.residual, rtol=1e-12, atol=10 * EPS)


def test_a_solver_that_does_not_verify_costs_one_product() -> None:
    rhs, product = PHI - 1, Counting()
    operator = Operator(product)
    taken = CG().solve(product, rhs)
    before = product.count
    seen = verified(taken, operator, rhs)
    assert product.count == before + 1
    assert seen.matvecs == taken.matvecs + 1
    assert seen.converged.all()


def test_an_answer_of_another_shape_is_refused() -> None:
    rhs = PHI - 1
    operator = Operator(Counting())
    answer = CG().solve(lambda vector: vector, rhs[:2])
    with pytest.raises(InputError, match=r"x of shape \(2, "):
        verified(answer, operator, rhs)


@dataclass(frozen=True)
class InNumpy:
    """Richardson's iteration in NumPy, which writes into buffers without torch's knowledge."""

    lies: bool

    def solve(self, apply: LinearMap, rhs: Tensor, start: Tensor | None = None) -> Solution:
        honest = Cholesky().solve(apply, rhs)
        x = honest.x.clone()
        buffer = x.numpy()
        product = apply(x).numpy()
        product[...] = 0  # the product's own buffer
        if self.lies:
            buffer *= 1.5
        return replace(honest, x=x, residual=0 * honest.residual)


@pytest.mark.parametrize("lies", [False, True])
def test_buffers_that_numpy_writes_into_fool_nobody(lies: bool) -> None:
    problem = Bilevel(upper=upper, lower=TOY.lower)
    found = hypergradient(problem, TOY.theta, PHI, solver=InNumpy(lies)).certificate.adjoint
    assert (found.status == (Status.MISREPORTED if lies else Status.CONVERGED)).all()
    assert bool((found.residual > 0.4).all()) == lies


@pytest.mark.parametrize("n", [5, SHORT + 1], ids=["all of it is kept", "two sums are kept"])
def test_a_vector_that_numpy_changed_gets_a_product_of_its_own(n: int) -> None:
    operator = Operator(lambda vector: 2 * vector)
    x = torch.linspace(1, 2, n, dtype=torch.float64)
    operator.exact(x)
    taken = operator.matvecs
    assert torch.equal(operator.image(x), 2 * x)
    assert operator.matvecs == taken  # remembered
    x.numpy()[0] += 1e-9
    assert torch.equal(operator.image(x), 2 * x)
    assert operator.matvecs == taken + 1


def test_where_values_are_not_read_a_changed_vector_is_known_by_its_version() -> None:
    operator = Operator(lambda vector: 2 * vector)
    with deferred():
        x, other = torch.ones(5), torch.zeros(5)
        operator.exact(x)
        assert torch.equal(operator.image(other), 2 * other)  # another one of the same version
        operator.exact(x)
        x.add_(1)
        assert torch.equal(operator.image(x), 2 * x)


def test_residuals_are_those_of_the_right_hand_side_that_is_asked_for() -> None:
    operator, x = Operator(lambda vector: 2 * vector), torch.ones(5)
    right, other = 2 * x, 4 * x  # of the same age
    assert float(operator.residual(right, x)) == 0
    assert float(operator.residual(other, x)) == 0.5
    assert float(operator.residual(right, x)) == 0
    right.mul_(2)
    assert float(operator.residual(right, x)) == 0.5


def test_evidence_of_another_shape_is_refused() -> None:
    rhs = PHI - 1
    operator = Operator(Counting())
    answer = CG().solve(lambda vector: vector, rhs)
    # past the runtime checker, which users don't have on
    object.__setattr__(answer, "residual", answer.residual[:, None])
    with pytest.raises(InputError, match="one value for each task"):
        verified(answer, operator, rhs)
