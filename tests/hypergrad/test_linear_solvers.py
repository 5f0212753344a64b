"""One table for all linear solvers: solvers x problems x batch shapes x dtypes, failures included.

A new solver is one line in SOLVERS; a new problem is one line in PROBLEMS.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Cholesky, LinearSolver, Neumann, Status
from hypergrad.errors import InputError
from hypergrad.linear.bicgstab import BiCGStab
from hypergrad.linear.cholesky import columns_at_once, dense
from hypergrad.linear.gmres import GMRES
from hypergrad.linear.lu import LU
from hypergrad.linear.minres import MINRES
from hypergrad.linear.normal_cg import NormalCG
from hypergrad.linear.operator import Operator
from hypergrad.linear.preconditioners import Jacobi, Nystrom
from hypergrad.linear.woodbury import Woodbury
from tests.hypergrad.systems import BATCHES, N, product, right_hand_side, spd, verified_by


@dataclass(frozen=True)
class Problem:
    """A matrix with eigenvalues <= 1, and how a solve of it must end for each solver."""

    name: str
    matrix: Callable[[tuple[int, ...], torch.dtype], Tensor]
    condition: float = 1.0
    status: Status = Status.CONVERGED
    but: dict[str, Status] = field(default_factory=dict)  # solvers that end otherwise
    single: bool = True  # whether float32 can be asked for it
    in_range: bool = False  # b = A times something


def identity(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.eye(N, dtype=dtype).expand(*batch, N, N)


def twice(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return 2 * identity(batch, dtype)


def saddle(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return identity(batch, dtype) * torch.tensor([1.0, 1, 1, 1, 1, -1], dtype=dtype)


def singular(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return identity(batch, dtype) * torch.tensor([1.0, 1, 1, 1, 0.5, 0], dtype=dtype)


def nan_product(batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return identity(batch, dtype) * torch.nan


GENERAL: dict[str, LinearSolver] = {  # for any matrix; others are in test_general_solvers.py
    "gmres": GMRES(rtol=1e-4, max_steps=200 * N),
    "gmres-4": GMRES(rtol=1e-4, max_steps=200 * N, restart=4),
    "bicgstab": BiCGStab(rtol=1e-4, max_steps=200 * N),
    "lu": LU(rtol=1e-2),
}

PROBLEMS = [
    Problem("identity", identity),
    Problem("twice-identity", twice),
    Problem("kappa-10", lambda b, d: spd(b, 10, 0, d), 10),
    Problem("kappa-100", lambda b, d: spd(b, 100, 1, d), 100),
    Problem(
        "kappa-1e5",
        lambda b, d: spd(b, 1e5, 2, d),
        1e5,
        # 1100 steps: 100 ln(1e4) / 0.9 and some more, but 1e5 ln(1e4) are needed
        but={"neumann": Status.OUT_OF_STEPS},
        single=False,  # float32 reaches residuals of about u kappa = 6e-3, whatever the solver
    ),
    Problem(
        "saddle",
        saddle,
        status=Status.INDEFINITE,
        but=dict.fromkeys(("minres", "normal-cg", *GENERAL), Status.CONVERGED),
    ),
    Problem(
        "singular-consistent",
        singular,
        2,
        # which need the inverse, not the equation's solution, to exist
        but={"cholesky": Status.INDEFINITE, "lu": Status.STAGNATED},
        in_range=True,
    ),
    Problem(
        "singular-inconsistent",
        singular,
        status=Status.INDEFINITE,
        but=dict.fromkeys(("minres", "normal-cg", *GENERAL), Status.STAGNATED),
    ),
    Problem("nan", nan_product, status=Status.NOT_FINITE),
]

SOLVERS: dict[str, LinearSolver] = {
    "cg": CG(rtol=1e-4, max_steps=200 * N),
    "cg-own": CG(rtol=1e-4, max_steps=200 * N, preconditioner=lambda v: v / 1.5),
    "cg-jacobi": CG(rtol=1e-4, max_steps=200 * N, preconditioner=Jacobi()),
    "cg-nystrom": CG(rtol=1e-4, max_steps=200 * N, preconditioner=Nystrom(rank=3)),
    "cg-rarely-checked": CG(rtol=1e-4, max_steps=200 * N, check_every=7),
    "minres": MINRES(rtol=1e-4, max_steps=200 * N),
    "normal-cg": NormalCG(rtol=1e-4, max_steps=200 * N),
    "cholesky": Cholesky(rtol=1e-2),
    "neumann": Neumann(step_size=0.9, max_steps=1100, rtol=1e-4),
    **GENERAL,
}


CASES = [
    pytest.param(problem, dtype, id=f"{problem.name}-{label}")
    for problem in PROBLEMS
    for label, dtype in (("f32", torch.float32), ("f64", torch.float64))
    if problem.single or dtype == torch.float64
]


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize(("problem", "dtype"), CASES)
@pytest.mark.parametrize("name", SOLVERS)
def test_status_residual_and_error(
    name: str, problem: Problem, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrix, b = problem.matrix(batch, dtype), right_hand_side(batch, dtype)
    if problem.in_range:
        b = product(matrix)(b)
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
        # reference's own backward error is at most about n u |A| |x*|, |A| <= 2. What
        # a solution of a singular system has in A's kernel is arbitrary, and left out.
        inverse = torch.linalg.pinv(wide, hermitian=True)
        exact = product(inverse)(b.double())
        x = product(inverse @ wide)(x) if problem.in_range else x
        size = b.double().norm(dim=-1)
        error, length = (x - exact).norm(dim=-1) / size, exact.norm(dim=-1) / size
        assert (error <= problem.condition * (true + 2 * N * 2.3e-16 * length)).all()
    if expected is Status.INDEFINITE:
        # not positive, or by no more than p'Ap / p'p is rounded by: n u |A|, |A| = 1
        assert (solution.curvature <= N * unit).all()


@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - {"cholesky", "lu"}))
def test_too_few_steps_are_reported(name: str) -> None:
    solver: Any = SOLVERS[name]
    matrix, b = spd((3,), 100, 1, torch.float64), right_hand_side((3,))
    solution = replace(solver, max_steps=2).solve(product(matrix), b)
    assert solution.status.tolist() == [Status.OUT_OF_STEPS] * 3
    assert solution.steps.tolist() == [2, 2, 2]
    true = (b - product(matrix)(solution.x)).norm(dim=-1) / b.norm(dim=-1)
    assert ((solution.residual - true).abs() <= 20 * N * torch.finfo(torch.float64).eps).all()
    assert (solution.residual > 1e-4).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_an_answer_is_verified_by_the_exact_product(name: str) -> None:
    # a closed form with another l2 than the objective's: only the exact product knows
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side(())
    planted = matrix + 0.3 * torch.eye(N)
    wrong = verified_by(product(planted), product(matrix), planted.diagonal())
    solution = SOLVERS[name].solve(wrong, b)
    true = (b - product(matrix)(solution.x)).norm() / b.norm()
    # |x| <= 10 |b|: both recompute it to n u (|A| |x| + |b|)
    assert abs(solution.residual - true) <= 11 * N * torch.finfo(torch.float64).eps
    # refining by the wrong inverse shrinks the residual by up to 0.3 / (0.1 + 0.3) only: no solver
    # gets there unless it says so
    assert not bool(solution.converged)


@pytest.mark.parametrize("kind", [CG, MINRES, NormalCG, GMRES, BiCGStab])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_an_absolute_tolerance_is_one_of_the_residual(kind: Any, scale: float) -> None:
    a, b = spd((), 1e2, 3, torch.float64), scale * torch.ones(N, dtype=torch.float64)
    start = float(b.norm())
    for atol in (10 * start, 1e-3 * start):
        found = kind(rtol=0.0, atol=atol, max_steps=200 * N).solve(product(a), b)
        assert float((b - a @ found.x).norm()) <= atol * (1 + 1e-9)
        assert found.converged.all()
        assert (found.steps == 0).all() == (atol > start)  # no step too many


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_right_hand_side_gives_zero(name: str) -> None:
    matrix = spd((2,), 10, 0, torch.float64)
    b = torch.zeros(2, N, dtype=torch.float64)
    b[1] = right_hand_side((), torch.float64)
    solution = SOLVERS[name].solve(product(matrix), b)
    assert (solution.x[0] == 0).all()
    assert solution.residual[0] == 0
    assert solution.converged.all()


@dataclass(frozen=True)
class Doubling:
    """2 I, which knows its inverse."""

    def product(self, vector: Tensor) -> Tensor:
        return 2 * vector

    def inverse(self, rhs: Tensor) -> Tensor:
        return rhs / 2

    def diagonal(self) -> Tensor:
        raise NotImplementedError  # there is nothing to precondition


@pytest.mark.parametrize("shape", [(0,), (1, 0), (2, 3, 0), (0, N), (2, 0, N), (0, 0)], ids=str)
@pytest.mark.parametrize("name", [*SOLVERS, "woodbury"])
def test_no_unknowns_or_no_tasks_are_solved(name: str, shape: tuple[int, ...]) -> None:
    solver: Any = Woodbury(refinements=1) if name == "woodbury" else SOLVERS[name]
    solvers = [solver]
    if isinstance(solver, CG | MINRES | NormalCG | GMRES | BiCGStab):
        solvers.append(replace(solver, max_steps=3, check_every=None))
    if name == "cg":
        solvers.append(CG(damping="auto"))
    empty = torch.zeros(shape, dtype=torch.float64)
    for way, start in itertools.product(solvers, (None, empty.clone())):
        found = way.solve(Operator(Doubling().product, form=Doubling()), empty, start)
        assert found.x.shape == shape
        assert found.status.shape == found.steps.shape == shape[:-1]
        assert found.status.dtype == found.steps.dtype == torch.int64
        assert found.x.dtype == found.residual.dtype == found.curvature.dtype == empty.dtype
        assert found.converged.all()
        assert found.residual.equal(torch.zeros(shape[:-1], dtype=empty.dtype))
        # no direction was met, and so no quotient
        assert found.curvature.equal(torch.full_like(found.residual, torch.inf))


def test_columns_in_portions_are_the_columns_in_their_order() -> None:
    # two portions of one size, which could be joined along a wrong dimension
    matrix = spd((2, 3), 10, 9, torch.float64)
    like = right_hand_side((2, 3), torch.float64)
    assert columns_at_once(like.shape, N // 2) == N // 2
    found = dense(product(matrix), like, at_once=N // 2)
    assert torch.allclose(found, matrix, rtol=1e-12)


def test_neumann_is_the_series() -> None:
    matrix, b = spd((2,), 10, 9, torch.float64), right_hand_side((2,), torch.float64)
    term, total = b, torch.zeros_like(b)
    for _ in range(5):
        total = total + 0.5 * term
        term = term - 0.5 * product(matrix)(term)
    solution = Neumann(step_size=0.5, max_steps=5).solve(product(matrix), b)
    # both sum five terms of size at most |b|: (5 + 1) n u |b|
    assert ((solution.x - total).norm(dim=-1) <= 6 * N * 2.3e-16 * b.norm(dim=-1)).all()
    assert solution.matvecs == 5


def test_neumann_divergence_is_reported() -> None:
    solution = Neumann(step_size=3.0, max_steps=50).solve(lambda v: v, torch.ones(N))
    assert solution.status == Status.OUT_OF_STEPS
    assert solution.residual > 1


def test_cholesky_reports_a_map_that_is_not_symmetric() -> None:
    matrix = torch.eye(N).double()
    matrix[0, 3] = 0.5  # above the diagonal, which the factorisation does not read
    solution = Cholesky().solve(product(matrix), torch.ones(N).double())
    assert solution.status == Status.STAGNATED
    assert solution.residual > 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CG(rtol=-1.0), "rtol must be in"),
        (lambda: CG(max_steps=0), "max_steps >= 1"),
        (lambda: CG(rtol=0.0), "when to stop"),
        (lambda: CG(damping=-1.0), "damping"),
        (lambda: CG(check_every=0), "check_every"),
        (lambda: MINRES(rtol=1.0), "MINRES got rtol"),
        (lambda: NormalCG(max_steps=0), "NormalCG got max_steps"),
        (lambda: Jacobi(probes=1), "at least 2"),
        (lambda: Jacobi(diagonal=torch.tensor([1.0, 0.0])), "not positive"),
        (lambda: Nystrom(rank=0), "rank >= 1"),
        (lambda: Nystrom(rank=1, shift=-1.0), "shift >= 0"),
        (lambda: Cholesky(rtol=0.0), "rtol"),
        (lambda: Neumann(step_size=0.0, max_steps=3), "step_size > 0"),
        (lambda: Neumann(step_size=0.1, max_steps=0), "max_steps >= 1"),
    ],
)
def test_constructors_refuse_nonsense(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_every_status_has_a_remedy() -> None:
    assert all(status.remedy.endswith(".") for status in Status)
