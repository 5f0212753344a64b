"""What solvers and certificates say of themselves, to the step and at the edge of every tolerance.

Exact numbers are dyadic: halves of halves are computed without rounding, so that "met" and "missed
by nothing" can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    Bilevel,
    Certificate,
    Cholesky,
    GradientDescent,
    Implicit,
    LinearSolver,
    Neumann,
    Newton,
    Status,
    argmin,
    attach,
    hypergradient,
    pullback,
)
from hypergrad.errors import InputError
from hypergrad.implicit.curvature import GaussNewton, Hessian
from hypergrad.linear.minres import MINRES
from hypergrad.linear.normal_cg import NormalCG
from hypergrad.linear.solution import Solution
from hypergrad.lower.lbfgs import LBFGS
from hypergrad.lower.minimum import LowerSolver
from hypergrad.lower.nesterov import Nesterov
from hypergrad.lower.torch_optim import TorchOptimiser
from hypergrad.objectives import Composed
from hypergrad.theory import Constants, Estimated, Proven
from tests.hypergrad.problems import Q, Toy
from tests.hypergrad.systems import product, right_hand_side, spd

TOY = Toy((3,))
PHI = TOY.minimiser()
PROBLEM: Bilevel[Any, Any] = Bilevel(
    upper=lambda theta, phi: phi.square().sum(-1) + theta.square().sum(), lower=TOY.lower
)


# --- the adjoint's start


def exact_v() -> Tensor:
    return hypergradient(PROBLEM, TOY.theta, PHI, solver=Cholesky()).certificate.adjoint.x


def test_an_exact_start_of_the_adjoint_leaves_nothing_to_do() -> None:
    v, solver = exact_v(), CG(rtol=1e-8)
    cold = hypergradient(PROBLEM, TOY.theta, PHI, solver=solver).certificate.adjoint
    warm = hypergradient(PROBLEM, TOY.theta, PHI, solver=solver, start=v).certificate.adjoint
    assert (cold.steps > 0).all()
    assert (warm.steps == 0).all()
    _, certificate = pullback(TOY.lower, TOY.theta, PHI, 2 * PHI, solver=solver, start=v)
    assert (certificate.adjoint.steps == 0).all()


@pytest.mark.parametrize("by", ["attach", "argmin"])
def test_the_start_reaches_the_solve_in_backward(by: str) -> None:
    seen: list[Certificate] = []
    theta, solver = TOY.theta.clone().requires_grad_(), CG(rtol=1e-8)
    if by == "attach":
        phi = attach(TOY.lower, theta, PHI, solver=solver, start=exact_v(), watch=seen.append)
    else:
        adjoint = Implicit(solver, start=exact_v())
        phi = argmin(TOY.lower, theta, PHI, by=Newton(rtol=0.0), adjoint=adjoint, watch=seen.append)
    phi.square().sum().backward()
    assert (seen[0].adjoint.steps == 0).all()


@pytest.mark.parametrize(
    "start", [torch.zeros(3, Q + 1).double(), torch.zeros(Q).double(), {"a": torch.zeros(3, Q)}]
)
def test_a_start_of_another_shape_is_refused(start: Any) -> None:
    with pytest.raises(InputError, match="start"):
        hypergradient(PROBLEM, TOY.theta, PHI, solver=CG(), start=start)
    with pytest.raises(InputError, match="start"):
        attach(TOY.lower, TOY.theta.clone().requires_grad_(), PHI, solver=CG(), start=start)


def test_a_start_is_cut_off_from_its_graph() -> None:
    start = exact_v().requires_grad_()
    theta = TOY.theta.clone().requires_grad_()
    attach(TOY.lower, theta, PHI, solver=CG(), start=start).square().sum().backward()
    assert start.grad is None
    assert theta.grad is not None


def test_the_value_is_the_mean_over_the_tasks() -> None:
    value = hypergradient(PROBLEM, TOY.theta, PHI, solver=CG()).value
    assert value == pytest.approx(float(PROBLEM.upper(TOY.theta, PHI).mean()), rel=1e-14)


# --- the certificate

NAMES = (
    "strong_convexity",
    "coupling",
    "upper_coupling",
    "upper_smoothness",
    "hessian_lipschitz",
    "coupling_lipschitz",
)


def certificate(residual: float = 0.5, cotangent: float = 4.0) -> Certificate:
    """Of one task with v = (3, 4): |v| = 5, |dg/dphi| = 2, |r| = residual |c|."""
    number = torch.tensor(residual, dtype=torch.float64)
    adjoint = Solution(
        x=torch.tensor([3.0, 4.0], dtype=torch.float64),
        status=torch.tensor(int(Status.OUT_OF_STEPS)),
        residual=number,
        curvature=torch.ones_like(number),
        steps=torch.tensor(1),
        matvecs=2,
    )
    return Certificate(
        stationarity=torch.full_like(number, 2.0),
        predicted_error=torch.zeros_like(number),
        newton_step=torch.zeros_like(number),
        adjoint=adjoint,
        cotangent_norm=torch.full_like(number, cotangent),
        curvature=Hessian(),
        solver=CG(),
        phi=adjoint.x,
    )


@pytest.mark.parametrize(("cotangent", "left"), [(4.0, 2.0), (0.0, 0.5)])
def test_the_bound_is_theorem_b(cotangent: float, left: float) -> None:
    # a residual is relative to |c|, and absolute where c = 0
    mu, L12, lam12, lam22, rH, rJ = 8.0, 16.0, 1.0, 2.0, 3.0, 0.5
    given = dict(zip(NAMES, map(Proven, (mu, L12, lam12, lam22, rH, rJ)), strict=True))
    expected = (lam12 + rJ * 5) * 2 / mu + L12 / mu * ((lam22 + rH * 5) * 2 / mu + left)
    bound = certificate(cotangent=cotangent).bound(Constants(**given))
    assert isinstance(bound, Proven)
    assert float(bound.value) == expected  # dyadic


@pytest.mark.parametrize("name", NAMES)
def test_one_estimate_makes_the_bound_an_estimate(name: str) -> None:
    given: dict[str, Any] = {other: Proven(2.0) for other in NAMES}
    given[name] = Estimated(2.0)
    assert isinstance(certificate().bound(Constants(**given)), Estimated)


def test_the_worst_task_is_the_one_that_is_not_a_number() -> None:
    residual = torch.tensor([0.9, float("nan"), 0.1], dtype=torch.float64)
    status = torch.tensor([int(Status.OUT_OF_STEPS), int(Status.NOT_FINITE), 0])
    adjoint = Solution(
        x=torch.zeros(3, 2, dtype=torch.float64),
        status=status,
        residual=residual,
        curvature=torch.ones_like(residual),
        steps=torch.ones_like(status),
        matvecs=2,
    )
    message = str(
        Certificate(
            stationarity=torch.zeros_like(residual),
            predicted_error=torch.zeros_like(residual),
            newton_step=torch.zeros_like(residual),
            adjoint=adjoint,
            cotangent_norm=torch.ones_like(residual),
            curvature=Hessian(),
            solver=CG(),
            phi=adjoint.x,
        )
    )
    assert message.startswith(
        "the adjoint system was not solved in 2 of 3 tasks: the worst, task 1,"
    )
    assert "NOT_FINITE" in message


# --- steps, and tolerances that are met exactly


def half(theta: Tensor, phi: Tensor) -> Tensor:
    """|phi|^2/2 + 0 theta: gradient descent with step 1/2 halves phi and its gradient exactly."""
    return phi.square().sum(-1) / 2 + 0 * theta.sum()


def from_one(by: LowerSolver, phi: Tensor | None = None) -> Any:
    theta = torch.zeros(1, dtype=torch.float64)
    return by.minimise(half, theta, torch.ones(1, dtype=torch.float64) if phi is None else phi)


def sgd(leaves: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(leaves, lr=0.5)


@pytest.mark.parametrize(
    "solver",
    [
        lambda steps, rtol: GradientDescent(max_steps=steps, step_size=0.5, rtol=rtol),
        lambda steps, rtol: Nesterov(max_steps=steps, step_size=0.5, condition=1.0, rtol=rtol),
        lambda steps, rtol: TorchOptimiser(make=sgd, max_steps=steps, rtol=rtol),
    ],
    ids=["descent", "nesterov", "torch"],
)
def test_a_tolerance_met_exactly_is_met(solver: Callable[[int, float], LowerSolver]) -> None:
    for count in (1, 2, 5):  # without a tolerance all steps are taken
        found = from_one(solver(count, 0.0))
        assert (found.steps, float(found.phi), found.converged) == (count, 0.5**count, None)
    # relative to |r| + 2 |r - h| = 2, r = 1 the gradient at the start and h = 1/2 that at its half
    found = from_one(solver(20, 0.0625))
    assert float(found.phi) == 0.125  # exactly the tolerance, after exactly three steps
    assert found.steps == 3
    assert found.converged.all()
    assert not from_one(solver(2, 0.0625)).converged.any()
    still = from_one(solver(20, 0.0625), torch.zeros(1, dtype=torch.float64))
    assert (float(still.phi), still.steps) == (0.0, 0)


@pytest.mark.parametrize("solver", [Newton(rtol=0.0), Newton(rtol=0.0, solver=Cholesky())])
def test_newton_ends_where_nothing_can_be_gained(solver: Newton) -> None:
    found = solver.minimise(TOY.lower, TOY.theta, TOY.start)
    assert found.steps < 20  # of 50: quadratic convergence to round-off, which is then noticed


@pytest.mark.parametrize("solver", [Newton(rtol=0.0, solver=Cholesky()), LBFGS(rtol=0.0)])
def test_an_exact_minimiser_ends_the_search(solver: LowerSolver) -> None:
    # both solvers' first step from 1 has length 1 and ends at 0, where the gradient is exactly 0
    found = from_one(solver)
    assert (float(found.phi), found.steps) == (0.0, 1)
    there = from_one(solver, torch.zeros(1, dtype=torch.float64))
    assert (float(there.phi), there.steps) == (0.0, 0)


@pytest.mark.parametrize("solver", [Newton(rtol=0.0), LBFGS(rtol=0.0)])
def test_a_decrease_that_rounding_hides_does_not_stop_the_search(solver: LowerSolver) -> None:
    # from 1e-5, g decreases by 5e-11 at most, a hundredth of 1e8's last place; its slope tells
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return 1e8 + half(theta, phi)

    start = torch.full((1,), 1e-5, dtype=torch.float64)
    found = solver.minimise(lower, torch.zeros(1, dtype=torch.float64), start)
    assert abs(float(found.phi)) <= 1e-5 * 1e-12


def test_the_first_step_of_lbfgs_has_length_one() -> None:
    seen: list[float] = []

    def steep(theta: Tensor, phi: Tensor) -> Tensor:
        seen.append(float(phi.detach()))
        return 1e6 * (phi - 3).square().sum(-1) + 0 * theta.sum()

    zero = torch.zeros(1, dtype=torch.float64)
    LBFGS(max_steps=1).minimise(steep, zero, zero)
    assert max(seen) == 1.0  # not 6e6, as the gradient says


@pytest.mark.parametrize(("rtol", "status"), [(0.5, Status.CONVERGED), (0.49, Status.OUT_OF_STEPS)])
def test_a_residual_that_equals_the_tolerance_is_converged(rtol: float, status: Status) -> None:
    rhs = torch.ones(2, dtype=torch.float64)
    # one term on the identity leaves exactly half of b
    found = Neumann(step_size=0.5, max_steps=1, rtol=rtol).solve(lambda v: v, rhs)
    assert float(found.residual) == 0.5
    assert int(found.status) == status


@pytest.mark.parametrize("every", [1, 2, 4])
def test_products_are_counted_where_checks_are_rare(every: int) -> None:
    # the identity takes one step; further ones are idle, until a multiple of `every`
    rhs = torch.ones(3, dtype=torch.float64)
    found = NormalCG(max_steps=8, check_every=every).solve(lambda v: v, rhs)
    assert int(found.steps) == 1
    # A r before the first; A p in each, A r after each but the last; one to verify
    assert found.matvecs == 1 + every + (every - 1) + 1


# --- tasks that fail leave the others alone

ALL: dict[str, LinearSolver] = {
    "cholesky": Cholesky(),
    "minres": MINRES(max_steps=100),
    "normal-cg": NormalCG(max_steps=500),
    "neumann": Neumann(step_size=0.9, max_steps=3000),
}


@pytest.mark.parametrize("name", ALL)
def test_a_task_that_is_not_finite_leaves_the_others_alone(name: str) -> None:
    matrix, b = spd((3,), 10.0, seed=0, dtype=torch.float64), right_hand_side((3,))
    alone = ALL[name].solve(product(matrix), b)
    matrix[1, 2, 2] = torch.nan
    found = ALL[name].solve(product(matrix), b)
    assert found.status.tolist() == [Status.CONVERGED, Status.NOT_FINITE, Status.CONVERGED]
    # each task is computed by itself
    assert torch.equal(found.x[[0, 2]], alone.x[[0, 2]])


def test_cholesky_answers_zero_where_it_has_no_answer() -> None:
    matrix = torch.diag_embed(torch.tensor([[1.0, -1.0], [torch.nan, 1.0], [2.0, 1.0]]).double())
    found = Cholesky().solve(product(matrix), torch.ones(3, 2, dtype=torch.float64))
    assert found.x[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert found.x[2].tolist() == pytest.approx([0.5, 1.0], rel=1e-15)
    assert found.status.tolist() == [Status.INDEFINITE, Status.NOT_FINITE, Status.CONVERGED]


# --- derivatives that are not there


class Once(torch.autograd.Function):
    """The identity, whose derivative fails."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        raise NotImplementedError("this backward is not implemented")


class Square(torch.autograd.Function):
    """x^2, whose gradient can be evaluated but not differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        once: Callable[[Tensor], Tensor] = Once.apply
        (x,) = ctx.saved_tensors
        return once(2 * x * cotangents[0])


def test_a_product_that_cannot_be_taken_says_which_function_and_why() -> None:
    square: Callable[[Tensor], Tensor] = Square.apply

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return square(phi).sum(-1) - (theta * phi).sum(-1)

    ones = torch.ones(2, dtype=torch.float64)
    with pytest.raises(InputError, match=r"Square.*this backward is not implemented"):
        pullback(lower, ones, ones / 2, ones, solver=CG())


def test_gauss_newton_takes_leaves_that_the_model_does_not_use() -> None:
    # the model sees w, the penalty w and b: G = diag(2 + 2, 2)
    fit: Composed[Tensor, dict[str, Tensor]] = Composed(
        model=lambda theta, phi: phi["w"] - theta,
        loss=lambda theta, outputs: outputs.square().sum(-1),
        penalty=lambda theta, phi: phi["w"].square().sum(-1) + phi["b"].square().sum(-1),
    )
    one = torch.ones(1, dtype=torch.float64)
    point = GaussNewton().linearise(fit, one, {"w": one, "b": one})
    columns = [point.hessian(unit) for unit in torch.eye(2, dtype=torch.float64)]
    assert torch.stack(columns).tolist() == [[4.0, 0.0], [0.0, 2.0]]
