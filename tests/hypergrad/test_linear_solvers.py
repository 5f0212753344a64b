"""One table for all linear solvers: solvers x problems x batch shapes x dtypes, failures included.

A new solver is one line in SOLVERS; a new problem is one line in PROBLEMS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hypergrad import CG, Cholesky, InputError, LinearSolver, Neumann, Status

N = 6
BATCHES = [(), (3,), (2, 3)]


def spd(batch: tuple[int, ...], condition: float, seed: int, dtype: torch.dtype) -> Tensor:
    """Symmetric positive definite, eigenvalues from 1/condition to 1, evenly in the logarithm."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(*batch, N, N, generator=generator, dtype=torch.float64))
    spectrum = torch.logspace(0, -math.log10(condition), N, dtype=torch.float64)
    matrix: Tensor = (basis * spectrum) @ basis.mT
    return ((matrix + matrix.mT) / 2).to(dtype)


def product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vector: (matrix @ vector[..., None])[..., 0]


@dataclass(frozen=True)
class Problem:
    """A matrix with eigenvalues <= 1, and how a solve of it must end for each solver."""

    name: str
    matrix: Callable[[tuple[int, ...], torch.dtype], Tensor]
    condition: float = 1.0
    status: Status = Status.CONVERGED
    but: dict[str, Status] = field(default_factory=dict)  # solvers that end otherwise
    single: bool = True  # whether float32 can be asked for it


def identity(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.eye(N, dtype=dtype).expand(*batch, N, N)


def twice(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return 2 * identity(batch, dtype)


def saddle(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return identity(batch, dtype) * torch.tensor([1.0, 1, 1, 1, 1, -1], dtype=dtype)


def nan_product(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return identity(batch, dtype) * torch.nan


PROBLEMS = [
    Problem("identity", identity),
    Problem("twice-identity", twice),
    Problem("kappa-10", lambda b, d: spd(b, 10, 0, d), 10),
    Problem("kappa-100", lambda b, d: spd(b, 100, 1, d), 100),
    Problem(
        "kappa-1e5",
        lambda b, d: spd(b, 1e5, 2, d),
        1e5,
        but={"neumann": Status.OUT_OF_STEPS},  # 2000 terms where 1e5 ln(1e4) are needed
        single=False,  # float32 reaches residuals of about u kappa = 6e-3, whatever the solver
    ),
    Problem("saddle", saddle, status=Status.INDEFINITE),
    Problem("nan", nan_product, status=Status.NOT_FINITE),
]

SOLVERS: dict[str, LinearSolver] = {
    "cg": CG(rtol=1e-4, max_steps=200 * N),
    "cg-jacobi": CG(rtol=1e-4, max_steps=200 * N, preconditioner=lambda v: v / 1.5),
    "cholesky": Cholesky(rtol=1e-2),
    "neumann": Neumann(step=0.9, terms=2000, rtol=1e-4),
}


def right_hand_side(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(*batch, N, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@pytest.mark.parametrize("name", SOLVERS)
def test_status_residual_and_error(
    name: str, problem: Problem, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    if dtype == torch.float32 and not problem.single:
        pytest.skip("beyond float32")
    matrix, b = problem.matrix(batch, dtype), right_hand_side(batch, dtype)
    solution = SOLVERS[name].solve(product(matrix), b)
    expected = problem.but.get(name, problem.status)
    assert solution.status.tolist() == torch.full(batch, int(expected)).tolist()
    assert solution.x.shape == b.shape
    assert solution.x.dtype == dtype
    assert solution.residual.shape == solution.steps.shape == solution.curvature.shape == batch
    if expected is Status.NOT_FINITE:
        return
    # The residual is the truth about x, not the recurrence's opinion: recompute it in float64.
    # Forming b - A x rounds by at most (n + 1) u (|A| |x| + |b|) (Higham 2002, section 3.5).
    wide, x = matrix.double(), solution.x.double()
    true = (b.double() - product(wide)(x)).norm(dim=-1) / b.double().norm(dim=-1)
    unit = torch.finfo(dtype).eps
    rounding = (N + 1) * unit * (2 * x.norm(dim=-1) / b.double().norm(dim=-1) + 1)
    assert ((solution.residual.double() - true).abs() <= rounding).all()
    if expected is Status.CONVERGED:
        # |x - x*| <= |A^{-1}| |r| <= condition |r|, as the largest eigenvalue is at least 1; the
        # reference's own backward error is at most about n u |A| |x*|, |A| <= 2
        exact = torch.linalg.solve(wide, b.double())
        size = b.double().norm(dim=-1)
        error, length = (x - exact).norm(dim=-1) / size, exact.norm(dim=-1) / size
        assert (error <= problem.condition * (true + 2 * N * 2.3e-16 * length)).all()
    if expected is Status.INDEFINITE:
        assert (solution.curvature <= 0).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_right_hand_side_gives_zero(name: str) -> None:
    matrix = spd((2,), 10, 0, torch.float64)
    b = torch.zeros(2, N, dtype=torch.float64)
    b[1] = right_hand_side((), torch.float64)
    solution = SOLVERS[name].solve(product(matrix), b)
    assert (solution.x[0] == 0).all()
    assert solution.residual[0] == 0
    assert solution.converged.all()


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_cg_does_not_underflow_or_overflow(scale: float) -> None:
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


def test_cg_returns_its_last_iterate() -> None:
    # Two libraries return the iterate before the last: on A = 2I that is the start, 0.
    b = right_hand_side((3,), torch.float64)
    solution = CG(rtol=1e-10).solve(lambda v: 2 * v, b)
    assert torch.equal(solution.x, b / 2)
    assert solution.steps.tolist() == [1, 1, 1]
    assert solution.matvecs == 2  # one step, one recomputed residual


def test_cg_stops_each_task_on_its_own() -> None:
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


def test_cg_a_broken_task_leaves_the_others_alone() -> None:
    matrix = spd((3,), 10, 4, torch.float64)
    b = right_hand_side((3,), torch.float64)
    healthy = CG().solve(product(matrix), b)
    matrix[0] *= torch.nan
    matrix[1] *= -1
    mixed = CG().solve(product(matrix), b)
    assert mixed.status.tolist() == [Status.NOT_FINITE, Status.INDEFINITE, Status.CONVERGED]
    assert torch.equal(mixed.x[2], healthy.x[2])
    assert mixed.x.isfinite().all()


def test_cg_warm_start_at_the_solution_takes_no_step() -> None:
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side((), torch.float64)
    exact = torch.linalg.solve(matrix, b)
    solution = CG(rtol=1e-8).solve(product(matrix), b, exact)
    assert int(solution.steps) == 0
    assert torch.equal(solution.x, exact)


def test_cg_warm_start_is_used() -> None:
    matrix, b = spd((), 1e4, 5, torch.float64), right_hand_side((), torch.float64)
    near = torch.linalg.solve(matrix, b) * (1 + 1e-5)
    cold = CG(rtol=1e-6).solve(product(matrix), b)
    warm = CG(rtol=1e-6).solve(product(matrix), b, near)
    assert warm.converged
    assert int(warm.steps) < int(cold.steps)


def test_cg_the_inverse_as_preconditioner_takes_one_step() -> None:
    matrix, b = spd((2,), 1e5, 6, torch.float64), right_hand_side((2,), torch.float64)
    inverse = torch.linalg.inv(matrix)
    solution = CG(rtol=1e-6, preconditioner=product(inverse)).solve(product(matrix), b)
    assert solution.converged.all()
    assert solution.steps.tolist() == [1, 1]


def test_cg_an_indefinite_preconditioner_is_reported() -> None:
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side((), torch.float64)
    solution = CG(preconditioner=lambda v: -v).solve(product(matrix), b)
    assert solution.status == Status.INDEFINITE


def test_cg_restarts_when_its_recurrence_and_the_truth_part() -> None:
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


def test_cg_tolerance_beyond_the_precision_is_called_stagnated() -> None:
    matrix = spd((), 1e6, 8, torch.float32)
    solution = CG(rtol=1e-7, max_steps=10_000).solve(
        product(matrix), right_hand_side((), torch.float32)
    )
    assert solution.status == Status.STAGNATED
    assert solution.residual > 1e-7


def test_neumann_is_the_series() -> None:
    matrix, b = spd((2,), 10, 9, torch.float64), right_hand_side((2,), torch.float64)
    term, total = b, torch.zeros_like(b)
    for _ in range(5):
        total = total + 0.5 * term
        term = term - 0.5 * product(matrix)(term)
    solution = Neumann(step=0.5, terms=5).solve(product(matrix), b)
    # both sum five terms of size at most |b|: (5 + 1) n u |b|
    assert ((solution.x - total).norm(dim=-1) <= 6 * N * 2.3e-16 * b.norm(dim=-1)).all()
    assert solution.matvecs == 5


def test_neumann_divergence_is_reported() -> None:
    solution = Neumann(step=3.0, terms=50).solve(lambda v: v, torch.ones(N))
    assert solution.status == Status.OUT_OF_STEPS
    assert solution.residual > 1


def test_cholesky_reports_a_map_that_is_not_symmetric() -> None:
    matrix = torch.eye(N).double()
    matrix[0, 3] = 0.5  # above the diagonal, which the factorisation does not read
    solution = Cholesky().solve(product(matrix), torch.ones(N).double())
    assert solution.status == Status.STAGNATED
    assert solution.residual > 0.1


@given(st.integers(0, 2**31), st.floats(1.0, 1e4), st.sampled_from(BATCHES))
def test_cg_meets_the_chebyshev_bound(seed: int, condition: float, batch: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CG(rtol=-1.0), "rtol must be in"),
        (lambda: CG(max_steps=0), "at least 1"),
        (lambda: CG(rtol=0.0), "when to stop"),
        (lambda: Cholesky(rtol=0.0), "rtol"),
        (lambda: Neumann(step=0.0, terms=3), "step > 0"),
        (lambda: Neumann(step=0.1, terms=0), "terms >= 1"),
    ],
)
def test_constructors_refuse_nonsense(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_every_status_has_a_remedy() -> None:
    assert all(status.remedy.endswith(".") for status in Status)
