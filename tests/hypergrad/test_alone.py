"""CG of one task on the CPU has a sweep of its own: it must end as the sweep of many does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Cholesky, Status
from hypergrad.deferred import deferred
from hypergrad.linear.cholesky import dense
from hypergrad.linear.solution import norm
from tests.hypergrad.systems import N, product, right_hand_side, spd

EPS = torch.finfo(torch.float64).eps
KAPPA = 30
MATRIX = spd((), KAPPA, 5, torch.float64)
B = right_hand_side((), torch.float64)
# the same steps, rounded differently: N of them, each by some eps kappa |x|, |x| <= kappa |b|
SLACK = 10 * N * EPS * KAPPA**2 * float(B.norm())
JACOBI = MATRIX.diagonal().clone()


@pytest.mark.parametrize(
    ("apply", "solver", "status"),
    [
        (product(MATRIX), CG(rtol=1e-8), Status.CONVERGED),
        (product(MATRIX), CG(rtol=1e-8, preconditioner=lambda r: r / JACOBI), Status.CONVERGED),
        (product(MATRIX), CG(rtol=1e-8, max_steps=3), Status.OUT_OF_STEPS),
        (product(MATRIX), CG(rtol=1e-8, preconditioner=lambda r: -r), Status.INDEFINITE),
        (product(MATRIX), CG(rtol=1e-8, preconditioner=lambda r: r / 0), Status.NOT_FINITE),
        (product(MATRIX - 0.5 * torch.eye(N)), CG(rtol=1e-8), Status.INDEFINITE),
        (lambda v: -v, CG(), Status.INDEFINITE),
        (lambda v: 0 * v, CG(), Status.INDEFINITE),
        (lambda v: v / 0, CG(), Status.NOT_FINITE),
        (lambda v: v * torch.nan, CG(), Status.NOT_FINITE),
    ],
)
def test_ends_as_one_of_two(apply: Callable[[Tensor], Tensor], solver: CG, status: Status) -> None:
    alone, both = solver.solve(apply, B), solver.solve(apply, B.expand(2, N))
    assert alone.status == status
    assert (both.status == status).all()
    assert alone.matvecs == both.matvecs
    assert (both.steps == alone.steps).all()
    if status == Status.NOT_FINITE:
        assert alone.x.isfinite().all()  # it keeps its last iterate
        return
    assert ((both.x - alone.x).norm(dim=-1) <= SLACK).all()
    assert ((both.curvature - alone.curvature).abs() <= SLACK).all()


def test_a_batch_of_one_is_alone() -> None:
    solver = CG(rtol=1e-8)
    one, alone = solver.solve(product(MATRIX), B[None]), solver.solve(product(MATRIX), B)
    assert one.steps.shape == one.status.shape == one.curvature.shape == (1,)
    assert one.steps == alone.steps
    assert (one.x - alone.x).norm() <= SLACK


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [-1.0, -0.6, -0.52, -0.5, -0.4, 0.0, 0.4, 0.5, 0.9])
def test_a_norm_is_right_however_large_the_entries(dtype: torch.dtype, power: float) -> None:
    kind = torch.finfo(dtype)
    entry = kind.tiny**-power if power < 0 else kind.max**power
    vector = torch.full((3, 5), entry, dtype=torch.float64).to(dtype)
    exact = vector.double()[:, 0] * 5**0.5
    # five squares, their sum and its root: some roundings
    assert ((norm(vector).double() - exact).abs() <= 8 * kind.eps * exact).all()


def test_columns_taken_together_are_those_taken_one_by_one() -> None:
    calls = []

    def counting(vector: Tensor) -> Tensor:
        calls.append(vector)
        return (MATRIX @ vector[..., None])[..., 0]

    def unwilling(vector: Tensor) -> Tensor:
        return counting(vector) if bool(vector.any()) else vector  # vmap can't branch

    together, few = dense(counting, B), len(calls)
    one_by_one = dense(unwilling, B)
    assert (few, len(calls) - few) == (1, N)
    torch.testing.assert_close(together, MATRIX, rtol=EPS, atol=0)
    torch.testing.assert_close(one_by_one, MATRIX, rtol=EPS, atol=0)
    assert dense(counting, B.expand(4, N)).shape == (4, N, N)
    with deferred():  # a check noted in the map must find plain values at the end of the block
        before = len(calls)
        dense(counting, B)
        assert len(calls) - before == N
    assert Cholesky().solve(counting, B).matvecs == N + 1
