"""Solvers of systems that are not symmetric; the symmetric ones are in test_linear_solvers.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Status
from hypergrad.linear.gmres import shortest
from hypergrad.linear.halves import solved
from hypergrad.linear.operator import Halves, Operator
from hypergrad.solvers import GMRES, LU, BiCGStab
from tests.hypergrad.systems import BATCHES, product

SOLVERS: dict[str, Any] = {
    "gmres": GMRES(rtol=1e-5),
    "gmres-4": GMRES(rtol=1e-5, restart=4, max_steps=500),
    "gmres-rarely": GMRES(rtol=1e-5, check_every=3),
    "bicgstab": BiCGStab(rtol=1e-5),
    "lu": LU(rtol=1e-3),
}
SIZE = 9


def turning(batch: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A matrix that turns by more than a right angle in no direction: positive real part."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(*batch, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return (2.5 * torch.eye(SIZE) + 0.2 * noise + (noise - noise.mT) / 2).to(dtype)


def right(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*batch, SIZE, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_solves_to_the_residual_that_it_reports(
    name: str, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrix, b = turning(batch, dtype), right(batch, dtype)
    found = SOLVERS[name].solve(product(matrix), b)
    assert found.status.tolist() == torch.zeros(batch, dtype=torch.int64).tolist()
    true = (b - product(matrix)(found.x)).norm(dim=-1) / b.norm(dim=-1)
    # forming b - A x rounds by (n + 1) u (|A| |x| + |b|), and |A| |A^-1| < 20 here
    assert ((found.residual - true).abs() <= 20 * (SIZE + 1) * torch.finfo(dtype).eps).all()
    exact = torch.linalg.solve(matrix.double(), b.double())
    error = (found.x - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert (error <= 20 * (1.2e-5 + 20 * torch.finfo(dtype).eps)).all()


def test_each_task_stops_by_itself() -> None:
    matrix, b = turning((3,), torch.float64), right((3,), torch.float64)
    matrix[1], b[2] = torch.eye(SIZE), 0.0
    for name in ("gmres", "bicgstab"):
        found = SOLVERS[name].solve(product(matrix), b)
        assert found.steps[1] == 1
        assert found.steps[2] == 0
        assert found.steps[0] > 2
        assert torch.equal(found.x[2], torch.zeros(SIZE).double())


def test_gmres_ends_in_n_steps_and_restarts_may_stall() -> None:
    """A cyclic shift: no residual falls before the n-th step (Greenbaum et al. 1996)."""

    def shift(vector: Tensor) -> Tensor:
        return vector.roll(1, -1)

    b = torch.zeros(SIZE, dtype=torch.float64)
    b[0] = 1.0
    found = GMRES(restart=SIZE).solve(shift, b)
    assert bool(found.converged)
    assert int(found.steps) == SIZE
    stalled = GMRES(restart=SIZE - 1).solve(shift, b)
    assert int(stalled.status) == Status.STAGNATED
    assert float(stalled.residual) == pytest.approx(1.0)


def test_bicgstab_says_that_a_skew_matrix_stalls_it() -> None:
    skew = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    found = BiCGStab().solve(product(skew), torch.tensor([1.0, 2.0]).double())
    assert int(found.status) == Status.STAGNATED
    assert bool(GMRES().solve(product(skew), torch.tensor([1.0, 2.0]).double()).converged)


@pytest.mark.parametrize("name", ["gmres", "bicgstab"])
def test_a_task_with_nan_leaves_the_others_alone(name: str) -> None:
    matrix, b = turning((2,), torch.float64), right((2,), torch.float64)
    matrix[0, 3, 3] = torch.nan
    found = SOLVERS[name].solve(product(matrix), b)
    assert found.status.tolist() == [Status.NOT_FINITE, Status.CONVERGED]


def test_the_length_of_an_inverse_is_bounded_from_below() -> None:
    """By each number of products; exact after n of them (docs/theory.md, section 11)."""
    matrix, b = turning((4,), torch.float64), right((4,), torch.float64)
    b[3] = 0.0
    true = torch.linalg.solve(matrix, b).norm(dim=-1)
    before = torch.zeros(4, dtype=torch.float64)
    for products in range(1, SIZE + 1):
        bound = shortest(product(matrix.mT), b, products)
        assert (bound >= before * (1 - 1e-13)).all()
        assert (bound <= true * (1 + 1e-13)).all()
        before = bound
    assert torch.allclose(before, true, rtol=1e-12)


def test_halves_are_solved_apart_and_the_worse_of_each_task_is_said() -> None:
    """Diagonal halves of three tasks: one is solved in both, each other one in one half only."""
    definite, indefinite = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, -4.0])
    first, second = torch.stack([definite, indefinite, definite]), definite.expand(3, 3).clone()
    second[2] = -definite
    halves = Halves(
        transposed=Operator(lambda v: first * v), forward=Operator(lambda v: second * v)
    )
    whole = Operator(
        lambda v: torch.cat([first * v[..., 3:], second * v[..., :3]], dim=-1), halves=halves
    )
    x, found = solved(CG(rtol=1e-6), whole, torch.ones(3, 6), None)
    assert torch.allclose(x[0], torch.cat([1 / definite, 1 / definite]))
    assert torch.allclose(found.x[0], 1 / definite)
    assert found.status.tolist() == [Status.CONVERGED, Status.INDEFINITE, Status.INDEFINITE]
    assert (found.curvature > 0).tolist() == [True, False, False]
    assert (found.residual < 1e-6).tolist() == [True, False, False]
    assert found.matvecs == 8  # three steps and a verification of each half
    alone = torch.cat([torch.zeros(3, 3), torch.ones(3, 3)], dim=-1)  # the forward half is all
    x, found = solved(CG(rtol=1e-6), whole, alone, None)
    assert torch.allclose(x[0], torch.cat([1 / definite, torch.zeros(3)]))
    assert found.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.INDEFINITE]
    assert found.matvecs == 4


def test_a_half_begins_at_its_own_part_of_the_guess() -> None:
    values = torch.tensor([1.0, 2.0, 4.0])
    half = Operator(lambda v: values * v)
    whole = Operator(
        lambda v: torch.cat([values * v[3:], values * v[:3]]),
        halves=Halves(transposed=half, forward=half),
    )
    rhs = torch.cat([torch.ones(3), torch.zeros(3)])
    guess = torch.cat([torch.full((3,), 7.0), 1 / values])
    x, found = solved(CG(rtol=1e-6), whole, rhs, guess)
    assert torch.allclose(x, torch.cat([torch.zeros(3), 1 / values]))
    assert found.steps.item() == 0
