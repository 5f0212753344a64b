"""CG of one task on the CPU has a sweep of its own: it must end as the sweep of many does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Cholesky, Status
from hypergrad.errors import InputError
from hypergrad.guards import deferred
from hypergrad.linear.automatic import chosen
from hypergrad.linear.cholesky import dense
from hypergrad.linear.operator import Operator
from hypergrad.linear.vectors import norm
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


SMALL = torch.tensor([1.0, 2.0, 3.0])
SKEW = torch.tensor([[1e-14, -1.0, 0.0], [1.0, 1e-14, 0.0], [0.0, 0.0, 1e-14]])
LARGEST = 3e37 * SMALL * SMALL[:, None]  # its eigenvalue is beyond float32


def _growing(r: Tensor) -> float:
    """What makes r'z grow by more than float32 holds, while each is within."""
    return 1e-10 if r.norm() < 10 else 1e3


@pytest.mark.parametrize(
    ("apply", "solver", "status"),
    [
        # steps, quotients and conjugations that float32 can't hold, and Python's numbers can
        (lambda v: 1e-40 * v, CG(), Status.NOT_FINITE),
        (product(SKEW), CG(), Status.NOT_FINITE),
        (lambda v: 1e38 * v, CG(preconditioner=lambda r: 1e-24 * r), Status.CONVERGED),
        (lambda v: 1e30 * v, CG(preconditioner=lambda r: 1e-30 * r), Status.CONVERGED),
        (lambda v: SMALL * 1e30 * v, CG(preconditioner=lambda r: 1e-30 * r), Status.CONVERGED),
        (product(SKEW), CG(preconditioner=lambda r: r * _growing(r)), Status.NOT_FINITE),
        (product(LARGEST), CG(rtol=1e-3, preconditioner=lambda r: 1e-19 * r), Status.CONVERGED),
    ],
)
def test_what_overflows_ends_as_one_of_two(
    apply: Callable[[Tensor], Tensor], solver: CG, status: Status
) -> None:
    alone, both = solver.solve(apply, SMALL), solver.solve(apply, SMALL.expand(2, 3))
    assert alone.status == status
    assert (both.status == status).all()
    assert (both.steps == alone.steps).all()
    assert (both.curvature == alone.curvature).all()


def test_a_tolerance_whose_square_overflows() -> None:
    tiny, far = SMALL.double() * 1e-300, SMALL.double()  # b is scaled to 1, and the rest with it
    solver = CG(atol=1e-100)
    alone = solver.solve(lambda v: v, tiny, far)
    both = solver.solve(lambda v: v, tiny.expand(2, 3), far.expand(2, 3))
    assert alone.status == Status.NOT_FINITE
    assert (both.status == alone.status).all()


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


def test_many_columns_are_taken_some_at_a_time() -> None:
    calls = []

    def counting(vector: Tensor) -> Tensor:
        calls.append(vector)
        return 2 * vector

    # what a product holds meanwhile it holds once for each column, so that is bounded
    assert dense(counting, torch.ones(150)).equal(2 * torch.eye(150))
    assert len(calls) == 2  # 128 and 22 columns
    Cholesky(at_once=50).solve(counting, torch.ones(150))
    assert len(calls) == 2 + 3 + 1
    # one by one where copies of all tasks' matrices would take more than the products
    assert dense(counting, torch.ones(40, 100))[7].equal(2 * torch.eye(100))
    assert len(calls) == 6 + 100
    with pytest.raises(InputError, match="at_once=0; it must be at least 1"):
        Cholesky(at_once=0)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((128,), Cholesky),
        ((129,), CG),
        ((16, 32), Cholesky),  # 4 products of 8 columns each
        ((16, 64), CG),  # 64 products of one column
        ((4096, 8), Cholesky),
        ((256, 50), CG),
        ((0, 5), Cholesky),
    ],
)
def test_the_default_is_dense_where_that_takes_few_products(
    shape: tuple[int, ...], kind: type
) -> None:
    assert isinstance(chosen(Operator(lambda vector: vector), torch.ones(shape)), kind)


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


def test_columns_of_a_map_that_writes_into_its_argument() -> None:
    def spoiling(vector: Tensor) -> Tensor:
        image = MATRIX @ vector
        vector.zero_()
        bool((image != 0).any())  # cannot be vectorised
        return image

    torch.testing.assert_close(dense(spoiling, B), MATRIX, rtol=EPS, atol=0)
