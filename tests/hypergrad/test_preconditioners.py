"""Preconditioners that build themselves from products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hypergrad import CG
from hypergrad.errors import InputError
from hypergrad.linear.preconditioners import Jacobi, Nystrom, Preconditioner
from tests.hypergrad.systems import product, right_hand_side, symmetric, verified_by

EPS = torch.finfo(torch.float64).eps
SIZE = 40


def low_rank(rank: int, shift: float, seed: int = 0, batch: tuple[int, ...] = (2,)) -> Tensor:
    """Eigenvalues: ``rank`` between 1 and 2, the others ``shift``; float64."""
    spectrum = torch.full((SIZE,), shift, dtype=torch.float64)
    spectrum[:rank] = torch.linspace(1, 2, rank, dtype=torch.float64) + shift
    return symmetric(batch, spectrum, seed)


@pytest.mark.parametrize("shift", [1e-1, 1e-3, 1e-5])
def test_nystrom_of_at_least_the_rank_leaves_a_multiple_of_the_identity(shift: float) -> None:
    # B of rank 5: the approximation is exact, the preconditioned matrix shift I, CG takes 1 step
    # (2 where rounding, u / shift of a step, leaves more than rtol)
    matrix, b = low_rank(5, shift), right_hand_side((2,), n=SIZE)
    solver = CG(rtol=1e-8, preconditioner=Nystrom(rank=8, shift=shift))
    solution = solver.solve(product(matrix), b)
    assert solution.converged.all()
    assert (solution.steps <= 2).all()
    assert solution.matvecs <= 8 + 2 + 1  # its own, the steps', the judging one
    assert (CG(rtol=1e-8).solve(product(matrix), b).steps >= 5).all()


@pytest.mark.parametrize("rank", [10, SIZE, 3 * SIZE])
def test_nystrom_needs_no_shift(rank: int) -> None:
    # 8 eigenvalues from 1e2 to 1e4, the others in [1, 2]: above rank 8 the condition number that
    # is left is about that of the rest
    spectrum = torch.cat([torch.logspace(4, 2, 8), torch.linspace(1, 2, SIZE - 8)])
    matrix, b = symmetric((2,), spectrum, 1), right_hand_side((2,), n=SIZE)
    plain = CG(rtol=1e-6).solve(product(matrix), b)
    helped = CG(rtol=1e-6, preconditioner=Nystrom(rank=rank)).solve(product(matrix), b)
    assert helped.converged.all()
    assert (helped.steps < plain.steps).all()
    assert helped.matvecs == min(rank, SIZE) + int(helped.steps.max()) + 1


def test_nystrom_without_curvature_stays_positive_definite() -> None:
    # B = 0: the sketch is nothing but nu
    matrix, b = low_rank(0, 0.5), right_hand_side((2,), n=SIZE)
    solution = CG(preconditioner=Nystrom(rank=3, shift=0.5)).solve(product(matrix), b)
    assert solution.converged.all()
    vanishing = CG(preconditioner=Nystrom(rank=3)).solve(torch.zeros_like, b)
    assert not vanishing.converged.any()


def test_jacobi_is_exact_for_a_diagonal_matrix() -> None:
    diagonal = torch.logspace(-6, 6, SIZE, dtype=torch.float64)
    b = right_hand_side((2,), n=SIZE)
    estimated = CG(rtol=1e-10, preconditioner=Jacobi(probes=2)).solve(lambda v: diagonal * v, b)
    given = CG(rtol=1e-10, preconditioner=Jacobi(diagonal=diagonal)).solve(
        lambda v: diagonal * v, b
    )
    for solution, products in ((estimated, 2), (given, 0)):
        assert solution.converged.all()
        assert solution.steps.tolist() == [1, 1]
        assert solution.matvecs == products + 2


def test_jacobi_takes_the_diagonal_that_the_map_knows_with_the_damping() -> None:
    diagonal = torch.logspace(-3, 0, SIZE, dtype=torch.float64)
    form = verified_by(lambda v: diagonal * v, lambda v: diagonal * v, diagonal)
    solution = CG(rtol=1e-10, damping=0.1, preconditioner=Jacobi()).solve(
        form, right_hand_side((), n=SIZE)
    )
    assert int(solution.steps) == 1  # the diagonal plus 0.1 is the damped system's
    assert solution.matvecs == 2


def test_jacobi_estimate_is_within_its_error_bars() -> None:
    # z * Az has mean diag A and variance sum_(j != i) A_ij^2; 10000 probes, 6 standard errors
    matrix = symmetric((), torch.linspace(1, 5, SIZE), 4)
    inverse = Jacobi(probes=10_000).prepare(product(matrix), torch.zeros(SIZE).double())
    estimate = 1 / inverse(torch.ones(SIZE).double())
    error = (matrix.square().sum(-1) - matrix.diagonal().square()).sqrt() / 100
    assert ((estimate - matrix.diagonal()).abs() <= 6 * error).all()


def test_jacobi_undoes_bad_scaling() -> None:
    spread = torch.logspace(-3, 3, SIZE, dtype=torch.float64)
    matrix = spread[:, None] * symmetric((), torch.linspace(1, 2, SIZE), 2) * spread
    b = right_hand_side((), n=SIZE)
    plain = CG(rtol=1e-8).solve(product(matrix), b)
    helped = CG(rtol=1e-8, preconditioner=Jacobi(diagonal=matrix.diagonal())).solve(
        product(matrix), b
    )
    assert helped.converged
    assert int(helped.steps) < int(plain.steps)


@pytest.mark.parametrize("preconditioner", [Jacobi(), Nystrom(rank=4)])
def test_results_depend_on_the_seed_alone(preconditioner: Preconditioner) -> None:
    assert isinstance(preconditioner, Preconditioner)
    matrix, b = low_rank(5, 1e-2), right_hand_side((2,), n=SIZE)
    first = preconditioner.prepare(product(matrix), b)(b)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = preconditioner.prepare(product(matrix), b)(b)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("preconditioner", [Jacobi(), Nystrom(rank=4)])
def test_an_inverse_is_symmetric_positive_definite_whatever_the_matrix(
    preconditioner: Preconditioner,
) -> None:
    spectrum = torch.linspace(-1, 1, SIZE)
    like = torch.zeros(SIZE).double()
    for matrix in (symmetric((), spectrum, 3), low_rank(2, 0.0, batch=()), torch.diag(like)):
        inverse = preconditioner.prepare(product(matrix), like)
        dense = torch.stack([inverse(e) for e in torch.eye(SIZE).double()])
        assert (dense - dense.mT).abs().max() <= SIZE * EPS * dense.abs().max()
        assert (torch.linalg.eigvalsh(dense) > 0).all()


def test_a_diagonal_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="diagonal of shape"):
        CG(preconditioner=Jacobi(diagonal=torch.ones(3))).solve(lambda v: v, torch.ones(4))


@pytest.mark.parametrize("rank", [3, 4])
def test_nystrom_of_a_low_rank_matrix_is_its_formula(rank: int) -> None:
    # A = shift + U diag(s) U' with rank(U) = 3: three products find B exactly, and the formula is
    # P^{-1} = I + U diag((s_r + shift)/(s + shift) - 1) U', s_r = 0 where rank is above 3
    shift, n, s = 0.5, 8, torch.tensor([100.0, 30.0, 10.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    U = torch.linalg.qr(torch.randn(2, n, 3, generator=generator, dtype=torch.float64))[0]
    A = shift * torch.eye(n, dtype=torch.float64) + (U * s) @ U.mT
    inverse = Nystrom(rank=rank, shift=shift).prepare(product(A), torch.zeros(2, n).double())
    last = 10.0 if rank == 3 else 0.0
    expected = torch.eye(n).double() + (U * ((last + shift) / (s + shift) - 1)) @ U.mT
    columns = [inverse(unit.expand(2, n)) for unit in torch.eye(n, dtype=torch.float64)]
    # the sketch's rounding is relative to |A|, and is divided by the least eigenvalue kept
    tolerance = 100 * n * torch.finfo(torch.float64).eps * 100 / shift
    assert torch.allclose(torch.stack(columns, dim=-1), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_jacobi_takes_no_estimate_below_its_own_error(seed: int) -> None:
    # A = [[0, 1], [1, 0]]: a probe sees z_1 z_2 = 1 or -1. If k of 16 are 1, their mean is
    # (2k - 16)/16 =: m, and its standard error ((1 - m^2)/15)^(1/2)
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    inverse = Jacobi(probes=16, seed=seed).prepare(product(swap), torch.zeros(2).double())
    estimate = 1 / inverse(torch.ones(2, dtype=torch.float64))
    means = [abs(2 * k - 16) / 16 for k in range(17)]
    possible = torch.tensor([max(m, ((1 - m**2) / 15) ** 0.5) for m in means]).double()
    away = (estimate[:, None] - possible.double()).abs().amin(dim=-1)
    assert float(away.max()) <= 1e-7  # of numbers that were rounded to float32
