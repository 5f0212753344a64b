"""The edges: what constructors just refuse, empty vectors, unused leaves, starts, hills.

Cases of one kind share a test, so that the quick choice of tests in tests/mutation takes them all.
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
    Cholesky,
    GradientDescent,
    Neumann,
    Newton,
    Status,
    attach,
    hypergradient,
    strict,
)
from hypergrad.errors import InputError
from hypergrad.implicit.curvature import FiniteDifference
from hypergrad.implicit.linearise import Linearisation
from hypergrad.linear.minres import MINRES
from hypergrad.linear.normal_cg import NormalCG
from hypergrad.linear.preconditioners import Jacobi, Nystrom
from hypergrad.linear.solution import LinearSolver
from hypergrad.linear.vectors import scale_of
from hypergrad.linear.woodbury import Woodbury
from hypergrad.lower.lbfgs import LBFGS
from hypergrad.lower.line_search import Probe, backtrack
from hypergrad.lower.nesterov import Nesterov
from tests.hypergrad.systems import product, right_hand_side, spd

ONE = torch.ones(1, dtype=torch.float64)
INF = float("inf")


def refused(*builds: Callable[[], object]) -> None:
    for build in builds:
        with pytest.raises(InputError):
            build()


def test_linear_solvers_refuse_what_just_makes_no_sense() -> None:
    refused(
        lambda: Cholesky(rtol=0.0),
        lambda: Cholesky(rtol=1.0),
        lambda: Neumann(step_size=0.0, max_steps=1),
        lambda: Neumann(step_size=1.0, max_steps=0),
        lambda: Neumann(step_size=1.0, max_steps=1, rtol=1.0),
        lambda: Woodbury(rtol=0.0),
        lambda: Woodbury(rtol=1.0),
        lambda: CG(rtol=1.0),
        lambda: CG(rtol=-0.1),
        lambda: CG(atol=-1.0),
        lambda: CG(damping=-1.0),
        lambda: CG(damping=INF),
        lambda: CG(rtol=0.0),  # and no number of steps: it would never stop
        lambda: CG(max_steps=0),
        lambda: CG(check_every=0),
        lambda: Nystrom(rank=0),
        lambda: Nystrom(rank=1, shift=-1.0),
        lambda: Nystrom(rank=1, shift=INF),
        lambda: Jacobi(probes=1),
        lambda: Jacobi(diagonal=torch.tensor([1.0, 0.0])),
    )
    (
        Cholesky(rtol=0.5),
        Neumann(step_size=0.5, max_steps=1),
        Woodbury(refinements=0),
        CG(damping=0.0),
    )
    CG(rtol=0.0, max_steps=1), Nystrom(rank=1, shift=0.0), Jacobi(probes=2)


def test_lower_solvers_refuse_what_just_makes_no_sense() -> None:
    refused(
        lambda: GradientDescent(max_steps=1, step_size=0.0),
        lambda: GradientDescent(max_steps=-1, step_size=1.0),
        lambda: GradientDescent(max_steps=1, step_size=1.0, rtol=1.0),
        lambda: GradientDescent(max_steps=1, step_size=1.0, rtol=-0.1),
        lambda: GradientDescent(max_steps=1, step_size=1.0, atol=-1.0),
        lambda: Nesterov(max_steps=-1, step_size=1.0),
        lambda: Nesterov(max_steps=1, step_size=0.0),
        lambda: Nesterov(max_steps=1, step_size=1.0, condition=0.5),
        lambda: Newton(rtol=1.0),
        lambda: Newton(max_steps=0),
        lambda: Newton(atol=-1.0),
        lambda: LBFGS(history=0),
        lambda: LBFGS(max_steps=-1),
        lambda: LBFGS(rtol=1.0),
        lambda: FiniteDifference(step=0.0),
        lambda: FiniteDifference(step=1.0),
    )
    GradientDescent(max_steps=0, step_size=1.0), Nesterov(max_steps=0, step_size=1.0, condition=1.0)
    Newton(rtol=0.0, max_steps=1), LBFGS(max_steps=0, history=1), FiniteDifference(step=0.5)


# --- linear solvers

ITERATIVE: dict[str, LinearSolver] = {
    "cg": CG(rtol=1e-8),
    "minres": MINRES(rtol=1e-8),
    "normal-cg": NormalCG(rtol=1e-8),
    "neumann": Neumann(step_size=0.5, max_steps=2, rtol=1e-8),
}


def test_an_exact_start_is_kept_whatever_the_size_of_the_right_hand_side() -> None:
    matrix = spd((2,), 4.0, seed=1, dtype=torch.float64)
    exact = right_hand_side((2,))
    for solver in ITERATIVE.values():
        for size in (2.0**-30, 1.0, 2.0**30):  # exact scalings
            found = solver.solve(product(matrix), size * product(matrix)(exact), size * exact)
            assert found.converged.all()
            # a residual of rounding may still be followed, by no more than kappa times itself
            assert torch.allclose(found.x / size, exact, rtol=0, atol=1e-14 * 4 * 6)


def test_the_curvature_met_is_the_quotient() -> None:
    b = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    for solver in ITERATIVE.values():
        for value in (0.5, 2.0, -2.0):
            found = solver.solve(product(value * torch.eye(3, dtype=torch.float64)), b)
            assert float(found.curvature) == value


def test_a_matrix_of_zeros_is_not_positive_definite() -> None:
    for name in ("cg", "neumann"):
        found = ITERATIVE[name].solve(torch.zeros_like, torch.ones(3, dtype=torch.float64))
        assert int(found.status) == Status.INDEFINITE
        assert float(found.curvature) == 0.0
        assert float(found.residual) == 1.0


def test_vectors_without_entries_have_a_scale_of_one() -> None:
    assert scale_of(torch.zeros(3, 0, dtype=torch.float64)).tolist() == [[1.0]] * 3
    assert scale_of(torch.tensor([[0.0, 0.0], [3.0, -5.0]])).flatten().tolist() == [1.0, 4.0]


def test_a_sketch_that_is_not_finite_leaves_the_other_tasks_theirs() -> None:
    matrix = spd((2,), 100.0, seed=1, dtype=torch.float64)
    zero = torch.zeros(2, 6, dtype=torch.float64)
    alone = Nystrom(rank=3, shift=0.01).prepare(product(matrix), zero)(right_hand_side((2,)))
    matrix[1, 0, 0] = torch.nan
    found = Nystrom(rank=3, shift=0.01).prepare(product(matrix), zero)(right_hand_side((2,)))
    assert torch.equal(found[0], alone[0])
    assert torch.equal(found[1], right_hand_side((2,))[1])  # P is the identity there


# --- leaves that play no part


def test_a_leaf_that_g_is_linear_in_has_no_curvature() -> None:
    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return phi["w"].square().sum() + (theta * phi["b"]).sum()

    point = Linearisation(lower, ONE, {"w": ONE, "b": ONE})
    both = torch.ones(2, dtype=torch.float64)
    for _ in range(2):  # the first product finds out which leaves are joined
        assert point.product(both).tolist() == [2.0, 0.0]
    assert point.cross(both)[0].tolist() == [1.0]


def test_a_gradient_without_theta_is_refused_when_it_is_crossed() -> None:
    for lower in (lambda theta, phi: phi.sum(), lambda theta, phi: phi.square().sum()):
        point = Linearisation(lower, ONE, ONE)
        with pytest.raises(InputError, match="theta"):
            point.cross(ONE)


def test_finite_differences_take_leaves_of_theta_that_g_does_not_use() -> None:
    def lower(theta: dict[str, Tensor], phi: Tensor) -> Tensor:
        return (phi - theta["a"]).square().sum() / 2

    def upper(theta: dict[str, Tensor], phi: Tensor) -> Tensor:
        return phi.square().sum() + theta["b"].sum()

    theta = {"a": ONE, "b": ONE}
    problem: Bilevel[dict[str, Tensor], Tensor] = Bilevel(upper=upper, lower=lower)
    grad = hypergradient(
        problem, theta, ONE, solver=CG(rtol=1e-4), curvature=FiniteDifference()
    ).grad
    # phi* = a, F = a^2 + b; the error of the differences is stated as 4e-11 relative
    assert float(grad["a"]) == pytest.approx(2.0, abs=1e-9)
    assert float(grad["b"]) == 1.0


# --- the line search


def length(lower: Callable[[Tensor, Tensor], Tensor], start: float, direction: float) -> float:
    """The step that is taken from ``start`` along ``direction``."""
    probe: Any = Probe(lower, ONE, torch.full((1,), start, dtype=torch.float64))
    here = probe.start()
    taken, there = backtrack(
        probe,
        here,
        torch.full((1,), direction, dtype=torch.float64),
        torch.tensor(True),
        here.values.abs(),
    )
    assert float(there.x) == pytest.approx(start + float(taken) * direction, rel=1e-15)
    return float(taken)


def bowl(theta: Tensor, phi: Tensor) -> Tensor:
    return phi.square().sum(-1) / 2 + 0 * theta.sum()


def test_the_line_search_asks_for_a_decrease() -> None:
    assert length(bowl, 1.0, -1.0) == 1.0
    assert length(bowl, 1.0, -2.0) == 0.5  # -1 is as high as 1: half of it is the minimiser
    # a decrease of 2e3 where Armijo asks for 1e-4 * 2e8
    assert length(bowl, 1e4, -2e4 * (1 - 1e-5)) == 0.5
    assert length(bowl, 1.0, -16.0) == 0.0625


def test_the_line_search_does_not_go_over_a_hill() -> None:
    # -cos: from 0.5 to -4.5 leads past the top at -pi, where the slope is downhill again
    assert length(lambda theta, phi: -phi.cos().sum(-1), 0.5, -5.0) < 0.5


def test_the_line_search_gives_up_uphill() -> None:
    assert length(bowl, 1.0, 1.0) == 0.0


def test_each_leaf_is_mapped_along_a_dimension_of_its_own() -> None:
    """``phi* = (a b, a - b)`` for two problems, which lie along the first or the last dimension."""
    a, b = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([[1.0, -1.0]] * 3)
    weights = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])

    def lower(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        product, difference = theta["a"] * theta["b"], theta["a"] - theta["b"]
        return (phi["x"] - product).square().sum() + (phi["y"] - difference).square().sum()

    def total(a: Tensor, b: Tensor) -> Tensor:
        found = torch.vmap(
            lambda theta, phi: attach(lower, theta, phi, solver=CG()),
            in_dims=({"a": 0, "b": 1}, {"x": 1, "y": 0}),
        )({"a": a, "b": b}, {"x": a.mT * b, "y": a - b.mT})
        summed: Tensor = weights * (found["x"] + found["y"])
        return summed.sum()

    found = torch.func.grad(total, argnums=(0, 1))(a, b)
    assert torch.allclose(found[0], weights * (b.mT + 1))
    assert torch.allclose(found[1], (weights * (a - 1)).mT)


def test_a_determinant_at_a_singular_matrix_has_its_derivative() -> None:
    """torch 2.13's gradient of it there is 0 unless a graph is asked for; attach asks for one."""
    theta = torch.full((2,), 1.5, dtype=torch.float64, requires_grad=True)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        volume = torch.linalg.det((phi - 1).diag() + 1)  # a + b + a b of a, b = phi - 1
        value: Tensor = (phi - theta).square().sum() / 2 + volume / 2
        return value

    phi = attach(lower, theta, torch.ones_like(theta), solver=Cholesky(), watch=strict)
    (found,) = torch.autograd.grad(phi @ torch.tensor([1.0, 2.0], dtype=torch.float64), theta)
    # H = (1, 1/2; 1/2, 1), and H^-1 (1, 2) = (0, 2)
    assert torch.allclose(found, torch.tensor([0.0, 2.0], dtype=torch.float64), atol=1e-12)
