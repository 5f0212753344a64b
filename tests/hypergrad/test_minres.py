"""What the solvers of indefinite systems promise; the table of all is in test_linear_solvers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Status
from hypergrad.linear.minres import MINRES
from hypergrad.linear.normal_cg import NormalCG
from tests.hypergrad.systems import N, decades, product, right_hand_side, spd, symmetric

EPS = torch.finfo(torch.float64).eps
SOLVERS = [MINRES, NormalCG]
SIGNS = (-1.0) ** torch.arange(N)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("condition", [2.0, 100.0, 1e4])
def test_indefinite_systems_are_solved(solver: type[MINRES | NormalCG], condition: float) -> None:
    matrix, b = symmetric((4,), decades(condition) * SIGNS, 0), right_hand_side((4,))
    solution = solver(rtol=1e-8, max_steps=1000).solve(product(matrix), b)
    assert solution.converged.all()
    exact = torch.linalg.solve(matrix, b)
    # |x - x*| <= kappa |r|, and |r| was recomputed to n u (|A| |x| + |b|)
    bound = condition * (1e-8 / 0.9 + 2 * N * EPS * condition) * b.norm(dim=-1)
    assert ((solution.x - exact).norm(dim=-1) <= bound).all()


def krylov_least_squares(matrix: Tensor, b: Tensor, steps: int) -> Tensor:
    """The least residual over x in the Krylov space, by dense orthogonalisation."""
    basis = torch.linalg.qr(
        torch.stack([torch.linalg.matrix_power(matrix, k) @ b for k in range(steps)], dim=-1)
    )[0]
    x: Tensor = basis @ torch.linalg.lstsq(matrix @ basis, b[:, None]).solution[:, 0]
    return x


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("signs", [SIGNS, torch.ones(N)], ids=["indefinite", "definite"])
def test_minres_has_the_least_residual_of_the_krylov_space(steps: int, signs: Tensor) -> None:
    matrix, b = symmetric((), decades(10) * signs, 2), right_hand_side(())
    x = MINRES(rtol=0.0, max_steps=steps).solve(product(matrix), b).x
    least = (b - matrix @ krylov_least_squares(matrix, b, steps)).norm()
    # MINRES loses at most about eps kappa^2 |b| (its docstring), the oracle eps times its basis'
    # condition number, kappa^4 at most
    assert abs((b - matrix @ x).norm() - least) <= N * EPS * 1e4 * b.norm()


def test_normal_cg_is_cg_on_the_normal_equations() -> None:
    matrix, b = symmetric((2,), decades(5) * SIGNS, 3), right_hand_side((2,))
    square = matrix @ matrix
    for steps in (1, 2, 3):
        x = NormalCG(rtol=0.0, max_steps=steps).solve(product(matrix), b).x
        y = CG(rtol=0.0, max_steps=steps).solve(product(square), product(matrix)(b)).x
        # the same iterates; a few steps amplify rounding by the square's condition, 25
        assert ((x - y).norm(dim=-1) <= 10 * steps * N * 25 * EPS * y.norm(dim=-1)).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_k_distinct_eigenvalues_end_in_k_steps(solver: type[MINRES | NormalCG]) -> None:
    # for NormalCG: of A^2
    diagonals = torch.tensor([[1.0] * 6, [1, 1, 1, -2, -2, -2], [1, 1, 2, -3, -3, 2]]).double()
    solution = solver(rtol=1e-10).solve(lambda v: diagonals * v, right_hand_side((3,)))
    assert solution.converged.all()
    assert solution.steps.tolist() == [1, 2, 3]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n", [6, 40])
def test_a_singular_inconsistent_system_is_never_converged(
    solver: type[MINRES | NormalCG], n: int
) -> None:
    spectrum = decades(100, n) * (-1.0) ** torch.arange(n)
    spectrum[-1] = 0
    matrix, b = symmetric((20,), spectrum, 1), right_hand_side((20,), n=n)
    solution = solver(rtol=1e-6, max_steps=100 * n).solve(product(matrix), b)
    assert (solution.status == Status.STAGNATED).all()
    inverse = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10)
    least = (b - product(matrix @ inverse)(b)).norm(dim=-1) / b.norm(dim=-1)
    assert (solution.residual >= least * (1 - 1e-9)).all()
    consistent = solver(rtol=1e-6, max_steps=100 * n).solve(product(matrix), product(matrix)(b))
    assert consistent.converged.all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_no_underflow_or_overflow(solver: type[MINRES | NormalCG], scale: float) -> None:
    matrix, b = spd((2,), 100, 3, torch.float64), right_hand_side((2,))
    plain, scaled = (solver(rtol=1e-12).solve(product(matrix), c) for c in (b, scale * b))
    assert scaled.converged.all()
    # both solve to residual 1e-12; kappa times that, twice, bounds their distance
    bound = 2 * 100 * (1e-12 / 0.9 + 100 * N * EPS) * b.norm(dim=-1)
    assert ((scaled.x / scale - plain.x).norm(dim=-1) <= bound).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_broken_task_leaves_the_others_alone(solver: type[MINRES | NormalCG]) -> None:
    matrix, b = spd((2,), 10, 4, torch.float64), right_hand_side((2,))
    healthy = solver().solve(product(matrix), b)
    matrix[0] *= torch.nan
    mixed = solver().solve(product(matrix), b)
    assert mixed.status.tolist() == [Status.NOT_FINITE, Status.CONVERGED]
    assert torch.equal(mixed.x[1], healthy.x[1])
    assert mixed.x.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start(solver: type[MINRES | NormalCG]) -> None:
    matrix, b = symmetric((), decades(100) * SIGNS, 5), right_hand_side(())
    exact = torch.linalg.solve(matrix, b)
    there = solver(rtol=1e-8).solve(product(matrix), b, exact)
    assert int(there.steps) == 0
    assert torch.equal(there.x, exact)
    near = solver(rtol=1e-3).solve(product(matrix), b, exact * (1 + 1e-2))
    assert near.converged
    assert int(near.steps) < int(solver(rtol=1e-3).solve(product(matrix), b).steps)


@pytest.mark.parametrize("solver", SOLVERS)
def test_checking_rarely_changes_no_result(solver: type[MINRES | NormalCG]) -> None:
    matrix, b = symmetric((3,), decades(100) * SIGNS, 6), right_hand_side((3,))
    often, rarely = (solver(check_every=k).solve(product(matrix), b) for k in (1, 7))
    assert torch.equal(often.x, rarely.x)
    assert torch.equal(often.steps, rarely.steps)
    assert torch.equal(often.curvature, rarely.curvature)
