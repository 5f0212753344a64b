"""``argmin``: lower solvers x adjoints, how they agree, what they differentiate and keep."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    Adjoint,
    Bilevel,
    Cholesky,
    Detached,
    GradientDescent,
    Implicit,
    LowerSolver,
    Neumann,
    Newton,
    OneStep,
    Truncated,
    Unrolled,
    argmin,
    hypergradient,
)
from tests.hypergrad.problems import Q, Toy

# The toy's Hessian has eigenvalues in [1, L], L <= 2 + |root|^2/Q < 8 for the seeds used here.
STEP, RATE = 0.1, 1 - 0.1 * 1.0
ENOUGH = 400  # RATE^400 < 1e-18


def exact(toy: Toy) -> Tensor:
    problem = Bilevel(upper=toy.upper, lower=toy.lower)
    return hypergradient(problem, toy.theta, toy.minimiser(), solver=Cholesky()).grad


def estimate(toy: Toy, by: LowerSolver, adjoint: Adjoint) -> Tensor:
    theta = toy.theta.clone().requires_grad_()
    phi = argmin(toy.lower, theta, toy.start, by=by, adjoint=adjoint)
    (grad,) = torch.autograd.grad(toy.upper(theta, phi).mean(), theta)
    return grad


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("by", "adjoint"),
    [
        (Newton(rtol=0.0, solver=Cholesky()), Implicit(CG(rtol=1e-13))),
        (Newton(rtol=0.0), Implicit(Cholesky())),
        (GradientDescent(max_steps=ENOUGH, step_size=STEP), Implicit(CG(rtol=1e-13))),
        (GradientDescent(max_steps=ENOUGH, step_size=STEP), Unrolled()),
        (GradientDescent(max_steps=2 * ENOUGH, step_size=STEP), Truncated(steps=ENOUGH)),
        (
            GradientDescent(max_steps=ENOUGH, step_size=STEP),
            Implicit(Neumann(step_size=STEP, max_steps=ENOUGH)),
        ),
    ],
    ids=str,
)
def test_every_exact_combination_gives_the_same(
    batch: tuple[int, ...], by: LowerSolver, adjoint: Adjoint
) -> None:
    toy = Toy(batch)
    # Each is exact up to RATE^ENOUGH, a residual of 1e-13 times kappa < 8, and rounding.
    assert distance(estimate(toy, by, adjoint), exact(toy)) <= 1e-11


def test_truncation_errs_by_the_neglected_tail() -> None:
    toy = Toy((3,))
    by = GradientDescent(max_steps=ENOUGH, step_size=STEP)
    truth = exact(toy)
    direct = 2 * toy.theta  # d f/d theta, which no adjoint gets wrong
    for k in (1, 5, 20, 60):
        error = (estimate(toy, by, Truncated(steps=k)) - truth).norm()
        # (I - step H)^k (J v): the indirect part shrinks by RATE a recorded step at least, in the
        # norm in which H is diagonal; its condition number is below 8
        assert error <= 8 * RATE**k * (truth - direct).norm() + 1e-12
        assert error > 1e-9


def test_one_step_is_truncation_to_one_step_and_one_neumann_term() -> None:
    toy = Toy((3,))
    by = GradientDescent(max_steps=ENOUGH, step_size=STEP)
    one = estimate(toy, by, OneStep(step_size=STEP))
    assert distance(one, estimate(toy, by, Truncated(steps=1))) <= 1e-12
    watched: list[object] = []
    theta = toy.theta.clone().requires_grad_()
    adjoint = Implicit(Neumann(step_size=STEP, max_steps=1))
    phi = argmin(toy.lower, theta, toy.start, by=by, adjoint=adjoint, watch=watched.append)
    (grad,) = torch.autograd.grad(toy.upper(theta, phi).mean(), theta)
    assert torch.equal(one, grad)
    assert len(watched) == 1


def test_detached_leaves_the_direct_derivative_only() -> None:
    toy = Toy((3,))
    by = GradientDescent(max_steps=5, step_size=STEP)
    assert torch.equal(estimate(toy, by, Detached()), 2 * toy.theta)


def test_unrolled_differentiates_the_start_and_can_be_differentiated_again() -> None:
    # one step from phi0 on g = |phi - theta|^2/2: phi = (1 - a) phi0 + a theta
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - theta).square().sum(-1) / 2

    theta = torch.ones(Q, dtype=torch.float64, requires_grad=True)
    start = torch.zeros(Q, dtype=torch.float64, requires_grad=True)
    by = GradientDescent(max_steps=1, step_size=0.25)
    phi = argmin(lower, theta, start, by=by, adjoint=Unrolled())
    by_theta, by_start = torch.autograd.grad(
        phi.pow(3).sum() / 3, (theta, start), create_graph=True
    )
    assert torch.allclose(by_theta, 0.25 * phi**2, rtol=1e-15)
    assert torch.allclose(by_start, 0.75 * phi**2, rtol=1e-15)
    (second,) = torch.autograd.grad(by_theta.sum(), theta)
    assert torch.allclose(second, 2 * 0.25**2 * phi, rtol=1e-15)


class Kept:
    """A tensor that some graph keeps for backward; dies with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(steps: int, adjoint: Adjoint) -> int:
    """Bytes of the distinct storages that the minimiser's graph keeps for backward."""
    toy = Toy((3,))
    theta = toy.theta.clone().requires_grad_()
    alive = weakref.WeakSet[Kept]()

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    by = GradientDescent(max_steps=steps, step_size=STEP)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        phi = argmin(toy.lower, theta, toy.start, by=by, adjoint=adjoint)
    assert phi.requires_grad  # the graph is alive
    storages = [kept.tensor.untyped_storage() for kept in alive]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_the_papers_method_saves_the_same_bytes_whatever_k() -> None:
    counts = {steps: saved_bytes(steps, Implicit(CG(max_steps=20))) for steps in (1, 5, 20, 100)}
    # theta (4 numbers) and phi (3 x 5 numbers), 8 bytes each, and nothing else
    assert set(counts.values()) == {(4 + 3 * 5) * 8}


def test_unrolling_saves_bytes_exactly_linear_in_k() -> None:
    counts = [saved_bytes(steps, Unrolled()) for steps in range(1, 12)]
    slopes = [high - low for low, high in itertools.pairwise(counts)]
    assert len(set(slopes)) == 1
    assert slopes[0] >= 3 * 5 * 8  # at least one phi a step


def test_newton_minimises_a_network_like_objective_from_far() -> None:
    # Rosenbrock, non-convex on the way, for tasks that start in different places
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        a, b = phi[..., 0], phi[..., 1]
        return (theta[0] - a).square() + 100 * (b - a.square()).square()

    start = torch.tensor([[-1.2, 1.0], [2.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    theta = torch.ones(1, dtype=torch.float64)
    found = Newton(rtol=0.0, max_steps=100, solver=Cholesky()).minimise(lower, theta, start)
    # |H^{-1}| = 1/0.4 at the minimiser (1, 1); the gradient's rounding is about 1e3 u there
    assert ((found.phi - 1).norm(dim=-1) <= 2.5 * 1e3 * 2.3e-16).all()


def test_newton_stops_tasks_on_their_own_and_says_so() -> None:
    toy = Toy((3,))
    found = Newton(rtol=1e-9).minimise(toy.lower, toy.theta, toy.start)
    assert found.converged is not None
    assert found.converged.all()
    again = Newton(rtol=0.0, atol=1e-8).minimise(toy.lower, toy.theta, found.phi)
    assert again.steps <= 1
    short = Newton(rtol=1e-12, max_steps=1).minimise(toy.lower, toy.theta, toy.start)
    assert short.converged is not None
    assert not short.converged.all()


def test_gradient_descent_reports_stationarity_where_it_ended() -> None:
    toy = Toy((3,))
    found = GradientDescent(max_steps=7, step_size=STEP).minimise(toy.lower, toy.theta, toy.start)
    phi = found.phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(toy.lower(toy.theta, phi).sum(), phi)
    assert torch.equal(found.stationarity, gradient.norm(dim=-1))
    assert not found.phi.requires_grad
