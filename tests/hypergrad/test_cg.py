"""What conjugate gradients alone promise; the table of all solvers is in test_linear_solvers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hypergrad import CG, MINRES, Status
from tests.hypergrad.systems import (
    BATCHES,
    N,
    decades,
    product,
    right_hand_side,
    spd,
    symmetric,
    verified_by,
)

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_does_not_underflow_or_overflow(scale: float) -> None:
    # r'r of such right-hand sides is 0 or infinite
    matrix = spd((2,), 100, 3, torch.float64)
    b = right_hand_side((2,), torch.float64)
    solver = CG(rtol=1e-12)
    plain, scaled = solver.solve(product(matrix), b), solver.solve(product(matrix), scale * b)
    assert scaled.converged.all()
    unit = torch.finfo(torch.float64).eps
    # both solve to residual 1e-12; kappa times that, twice, bounds their distance
    bound = 2 * 100 * (1e-12 / 0.9 + N * unit) * b.norm(dim=-1)
    assert ((scaled.x / scale - plain.x).norm(dim=-1) <= bound).all()


def test_returns_its_last_iterate() -> None:
    # Two libraries return the iterate before the last: on A = 2I that is the start, 0.
    b = right_hand_side((3,), torch.float64)
    solution = CG(rtol=1e-10).solve(lambda v: 2 * v, b)
    assert torch.equal(solution.x, b / 2)
    assert solution.steps.tolist() == [1, 1, 1]
    assert solution.matvecs == 2  # one step, one recomputed residual


def test_stops_each_task_on_its_own() -> None:
    # k distinct eigenvalues end CG in k steps.
    diagonals = torch.tensor([[1.0] * 6, [1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 4, 4]]).double()
    b = right_hand_side((3,), torch.float64)
    solution = CG(rtol=1e-10).solve(lambda v: diagonals * v, b)
    assert solution.steps.tolist() == [1, 2, 3]
    assert solution.matvecs == 4
    alone = [
        CG(rtol=1e-10).solve(product(torch.diag(d)), c) for d, c in zip(diagonals, b, strict=True)
    ]
    # the same arithmetic up to the order of sums: three steps at kappa <= 4
    apart = (solution.x - torch.stack([one.x for one in alone])).norm(dim=-1)
    assert (apart <= 3 * 4 * N * torch.finfo(torch.float64).eps * solution.x.norm(dim=-1)).all()


def test_a_broken_task_leaves_the_others_alone() -> None:
    matrix = spd((3,), 10, 4, torch.float64)
    b = right_hand_side((3,), torch.float64)
    healthy = CG().solve(product(matrix), b)
    matrix[0] *= torch.nan
    matrix[1] *= -1
    mixed = CG().solve(product(matrix), b)
    assert mixed.status.tolist() == [Status.NOT_FINITE, Status.INDEFINITE, Status.CONVERGED]
    assert torch.equal(mixed.x[2], healthy.x[2])
    assert mixed.x.isfinite().all()


def test_warm_start_at_the_solution_takes_no_step() -> None:
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side((), torch.float64)
    exact = torch.linalg.solve(matrix, b)
    solution = CG(rtol=1e-8).solve(product(matrix), b, exact)
    assert int(solution.steps) == 0
    assert torch.equal(solution.x, exact)


def test_warm_start_is_used() -> None:
    matrix, b = spd((), 1e4, 5, torch.float64), right_hand_side((), torch.float64)
    near = torch.linalg.solve(matrix, b) * (1 + 1e-5)
    cold = CG(rtol=1e-6).solve(product(matrix), b)
    warm = CG(rtol=1e-6).solve(product(matrix), b, near)
    assert warm.converged
    assert int(warm.steps) < int(cold.steps)


def test_the_inverse_as_preconditioner_takes_one_step() -> None:
    matrix, b = spd((2,), 1e5, 6, torch.float64), right_hand_side((2,), torch.float64)
    inverse = torch.linalg.inv(matrix)
    solution = CG(rtol=1e-6, preconditioner=product(inverse)).solve(product(matrix), b)
    assert solution.converged.all()
    assert solution.steps.tolist() == [1, 1]


def test_an_indefinite_preconditioner_is_reported() -> None:
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side((), torch.float64)
    solution = CG(preconditioner=lambda v: -v).solve(product(matrix), b)
    assert solution.status == Status.INDEFINITE


def test_restarts_when_its_recurrence_and_the_truth_part() -> None:
    # The product is wrong once, on the second call: the recurrence then describes another system
    # and claims convergence for it. The recomputed residual denies it; a restart repairs it.
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side((), torch.float64)
    calls = 0

    def faulty(vector: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return product(matrix)(vector) * (1.5 if calls == 2 else 1.0)

    solution = CG(rtol=1e-8).solve(faulty, b)
    assert solution.converged
    assert float((product(matrix)(solution.x) - b).norm() / b.norm()) <= 1e-8 / 0.9


def test_tolerance_beyond_the_precision_is_called_stagnated() -> None:
    matrix = spd((), 1e6, 8, torch.float32)
    solution = CG(rtol=1e-7, max_steps=10_000).solve(
        product(matrix), right_hand_side((), torch.float32)
    )
    assert solution.status == Status.STAGNATED
    assert solution.residual > 1e-7


@given(st.integers(0, 2**31), st.floats(1.0, 1e4), st.sampled_from(BATCHES))
def test_meets_the_chebyshev_bound(seed: int, condition: float, batch: tuple[int, ...]) -> None:
    # |x_k - x|_A <= 2 tau^k |x|_A, the bound of theory.md section 0; rounding adds u kappa |x|_A
    # at most a few times over (section 6: never violated above 4e-16 kappa).
    matrix = spd(batch, condition, seed, torch.float64)
    b = right_hand_side(batch, torch.float64)
    exact = torch.linalg.solve(matrix, b)

    def energy(vector: Tensor) -> Tensor:
        return (vector * product(matrix)(vector)).sum(-1).sqrt()

    tau = (condition**0.5 - 1) / (condition**0.5 + 1)
    for k in range(1, N + 1):
        x = CG(rtol=0.0, max_steps=k).solve(product(matrix), b).x
        slack = 100 * torch.finfo(torch.float64).eps * condition
        assert (energy(x - exact) <= (2 * tau**k + slack) * energy(exact)).all()


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_damping_is_off_by_no_more_than_its_bound(damping: float) -> None:
    # |v_lam - v*| <= lam/(mu + lam) |v*|, theory.md section 8; the solve itself adds at most
    # rtol |b| / (mu + lam)
    matrix, b = spd((3,), 100, 1, torch.float64), right_hand_side((3,))
    solution = CG(rtol=1e-12, damping=damping).solve(product(matrix), b)
    exact = torch.linalg.solve(matrix, b)
    off, least = (solution.x - exact).norm(dim=-1), 1e-2 + damping
    slack = (1e-12 / 0.9 + 100 * N * EPS) * b.norm(dim=-1) / 1e-2
    assert (off <= damping / least * exact.norm(dim=-1) + slack).all()
    # and what is reported is A's residual, damping |x|, which the certificate's bound needs
    true = (b - product(matrix)(solution.x)).norm(dim=-1) / b.norm(dim=-1)
    assert ((solution.residual - true).abs() <= 1e3 * N * EPS).all()
    assert solution.status.tolist() == [Status.DAMPED] * 3
    assert solution.converged.all()  # the system that was asked for is solved


def test_damping_attains_its_bound_on_the_least_eigenvector() -> None:
    b = torch.tensor([0.0, 0.0, 1.0]).double()
    diagonal = torch.tensor([1.0, 0.5, 0.25]).double()
    solution = CG(damping=0.75).solve(lambda v: diagonal * v, b)
    assert torch.equal(solution.x, b)  # v* = 4 b, off by 0.75/(0.25 + 0.75) of it
    assert solution.curvature == 0.25  # A's, not the damped one's


def test_damping_below_the_tolerance_is_converged() -> None:
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side(())
    # the residual is damping |x| <= 1e-9 * 10 |b|
    assert CG(rtol=1e-6, damping=1e-9).solve(product(matrix), b).converged


def test_damping_makes_an_indefinite_system_definite_and_says_so() -> None:
    diagonal = torch.tensor([1.0, 1.0, -1.0]).double()
    b = torch.ones(3).double()
    solution = CG(damping=3.0).solve(lambda v: diagonal * v, b)
    assert solution.status == Status.DAMPED
    assert CG().solve(lambda v: diagonal * v, b).status == Status.INDEFINITE
    weak = CG(damping=0.5).solve(lambda v: diagonal * v, b)
    assert weak.status == Status.INDEFINITE


@pytest.mark.parametrize("every", [2, 5, 1000])
@pytest.mark.parametrize("max_steps", [3, 40])
def test_checking_rarely_changes_no_result(every: int, max_steps: int) -> None:
    matrix, b = spd((4,), 1e3, 3, torch.float64), right_hand_side((4,))
    matrix[0] *= torch.nan
    matrix[1] *= -1
    often, rarely = (
        CG(rtol=1e-9, max_steps=max_steps, check_every=k).solve(product(matrix), b)
        for k in (1, every)
    )
    assert torch.equal(often.x, rarely.x)
    assert torch.equal(often.status, rarely.status)
    assert torch.equal(often.steps, rarely.steps)
    assert torch.equal(often.curvature, rarely.curvature)
    assert torch.equal(often.residual.nan_to_num(), rarely.residual.nan_to_num())


@pytest.mark.parametrize("condition", [10.0, 1e3])
def test_float32_products_reach_float64_by_restarts(condition: float) -> None:
    # theory.md section 6, rule (b). A sweep leaves about kappa u_32 of the residual it began with
    # (the solution's relative error): 1.2e-4 and 1.2e-6 at worst here, a few of them 1e-13.
    matrix = symmetric((3,), decades(condition, 20), 5)
    b = right_hand_side((3,), n=20)
    low = matrix.float()

    def single(vector: Tensor) -> Tensor:
        return product(low)(vector.float()).double()

    solver = CG(rtol=1e-13)
    refined = solver.solve(verified_by(single, product(matrix)), b)
    assert refined.converged.all()
    true = (b - product(matrix)(refined.x)).norm(dim=-1) / b.norm(dim=-1)
    assert (true <= 1e-13 / 0.9 + 20 * EPS * condition).all()
    # verified by themselves they converge to the solution of another system
    blind = solver.solve(single, b)
    blind_true = (b - product(matrix)(blind.x)).norm(dim=-1) / b.norm(dim=-1)
    assert (blind_true > 1e-9).all()


def test_curvature_within_rounding_of_zero_is_not_positive() -> None:
    # A singular A and a b outside its range: in exact arithmetic the second direction is in A's
    # kernel; rounding must not turn its curvature into a step of length 1e16.
    diagonal = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    solution = CG().solve(lambda v: diagonal * v, torch.tensor([0.3, 0.7, -1.1, 0.9]).double())
    assert solution.status == Status.INDEFINITE
    assert solution.x.norm() < 10


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_is_not_finite_never_reaches_the_iterate(value: float, call: int) -> None:
    matrix, b = spd((2,), 100, 3, torch.float64), right_hand_side((2,))
    healthy = CG().solve(product(matrix), b)

    def breaking(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        calls = 0

        def broken(vector: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            image = inner(vector).clone()
            image[0] = image[0] if calls < call else value
            return image

        return broken

    by_product = CG().solve(breaking(product(matrix)), b)
    by_inverse = CG(preconditioner=breaking(lambda v: v)).solve(product(matrix), b)
    for solution in (by_product, by_inverse):
        assert solution.status.tolist() == [Status.NOT_FINITE, Status.CONVERGED]
        assert solution.x.isfinite().all()
        assert torch.equal(solution.x[1], healthy.x[1])


@pytest.mark.parametrize("solver", [CG(rtol=1e-8), MINRES(rtol=1e-8)])
def test_a_restart_takes_no_more_steps_than_rough_products_are_worth(
    solver: CG | MINRES,
) -> None:
    n, matrix = 60, symmetric((), decades(1e3, 60), 0)
    wrong = symmetric((), torch.linspace(-0.02, 0.02, n), 1)
    root = torch.linalg.cholesky(matrix)
    rough = matrix + root @ wrong @ root.mT  # within 2 % of it in each direction
    solution = solver.solve(
        verified_by(product(rough), product(matrix)), right_hand_side((), torch.float64, n)
    )
    assert solution.converged
    # sweeps that all went to 1e-8 took 374 and 364 products
    assert solution.matvecs < 320
