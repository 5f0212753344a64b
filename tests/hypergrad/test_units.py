"""Solvers give the same answer in any unit: of the Hessian, of phi, of the right-hand side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from hypergrad import CG, MINRES, Status, attach
from hypergrad.errors import InputError
from hypergrad.implicit.certificate import Certificate
from hypergrad.implicit.curvature import FiniteDifference
from hypergrad.linear.normal_cg import NormalCG
from hypergrad.linear.preconditioners import Jacobi, Nystrom
from hypergrad.linear.solution import LinearSolver, remedy
from tests.hypergrad.systems import BATCHES, N, product, right_hand_side, spd, symmetric

KAPPA = 8.0
SCALES = {
    torch.float32: [2.0**-80, 2.0**-40, 2.0**40, 2.0**80],
    torch.float64: [2.0**-700, 2.0**-300, 2.0**300, 2.0**700],
}
SOLVERS: dict[str, Callable[[], LinearSolver]] = {
    "CG": lambda: CG(rtol=1e-5),
    "MINRES": lambda: MINRES(rtol=1e-5),
    "NormalCG": lambda: NormalCG(rtol=1e-5),
    "Jacobi": lambda: CG(rtol=1e-5, preconditioner=Jacobi()),
    "Nystrom": lambda: CG(rtol=1e-5, preconditioner=Nystrom(rank=4)),
}


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_power_of_two_times_the_matrix_changes_nothing(
    name: str, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    # every rounding is scaled with it: the answers are the same to the bit
    matrix, b = spd(batch, KAPPA, 3, dtype), right_hand_side(batch, dtype)
    plain = SOLVERS[name]().solve(product(matrix), b)
    assert plain.converged.all()
    for scale in SCALES[dtype]:
        found = SOLVERS[name]().solve(product(scale * matrix), b)
        assert torch.equal(found.status, plain.status), (scale, found.status)
        assert torch.equal(found.x * scale, plain.x), scale
        assert torch.equal(found.curvature / scale, plain.curvature)


@pytest.mark.parametrize("dtype", SCALES, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_preconditioner_of_ones_own_may_have_any_size(
    batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    matrix, b = spd(batch, KAPPA, 3, dtype), right_hand_side(batch, dtype)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    plain = CG(preconditioner=partial(torch.mul, 1 / diagonal)).solve(product(matrix), b)
    assert plain.converged.all()
    for scale in SCALES[dtype]:
        known = scale * diagonal
        found = CG(preconditioner=partial(torch.mul, 1 / known)).solve(product(scale * matrix), b)
        assert torch.equal(found.status, plain.status)
        assert torch.equal(found.x * scale, plain.x)


def test_an_indefinite_matrix_of_any_size_is_solved_by_normal_cg() -> None:
    matrix = symmetric((3,), [-1.0, -0.5, 0.5, 0.7, 0.9, 1.0], 1)
    b = right_hand_side((3,))
    plain = NormalCG(rtol=1e-8).solve(product(matrix), b)
    assert plain.converged.all()
    for scale in SCALES[torch.float64]:
        found = NormalCG(rtol=1e-8).solve(product(scale * matrix), b)
        assert torch.equal(found.x * scale, plain.x)


def test_tasks_of_different_sizes_have_their_own_units() -> None:
    matrix, b = spd((3,), KAPPA, 3, torch.float32), right_hand_side((3,), torch.float32)
    sizes = torch.tensor([2.0**-60, 1.0, 2.0**60])
    for name, make in SOLVERS.items():
        found = make().solve(product(sizes[:, None, None] * matrix), b)
        assert found.converged.all(), name
        plain = make().solve(product(matrix), b)
        # Jacobi's and Nystrom's estimates and every sweep are each task's own
        assert torch.equal(found.x * sizes[:, None], plain.x), name


def quartic(unit: float) -> Callable[[Tensor, Tensor], Tensor]:
    """``g = (p/s)^4/4 + (p/s)^2/2 - t p/s``: p* = s q, q^3 + q = t, and dp*/dt = s/(3 q^2 + 1)."""

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        q = phi / unit
        return (q**4 / 4 + q**2 / 2 - theta * q).sum(-1)

    return lower


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-6, 1e6])
def test_differences_follow_the_units_of_phi(
    unit: float, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    theta = torch.tensor(10.0, dtype=dtype, requires_grad=True)
    phi = torch.full((*batch, 1), 2.0 * unit, dtype=dtype)
    seen: list[Certificate] = []
    node = attach(
        quartic(unit),
        theta,
        phi,
        solver=CG(rtol=1e-3),
        curvature=FiniteDifference(),
        watch=seen.append,
    )
    (node.sum() / unit).backward()
    assert theta.grad is not None
    assert seen[0].adjoint.converged.all()
    # step^2 of the fourth derivative's part and u/step of rounding: 1e2 u^(2/3) for both
    error = abs(float(theta.grad) * 13 / max(len(batch) * 2, 1) - 1)
    assert error <= 1e2 * torch.finfo(dtype).eps ** (2 / 3)


def test_differences_at_zero_ask_for_a_length() -> None:
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(InputError, match="give length="):
        attach(
            quartic(1e-6), theta, phi, solver=CG(), curvature=FiniteDifference()
        ).sum().backward()
    by = FiniteDifference(length=1e-6)
    attach(quartic(1e-6), theta, phi, solver=CG(rtol=1e-6), curvature=by).sum().backward()
    assert theta.grad is not None
    assert float(theta.grad) == pytest.approx(1e-6, rel=1e-8)
    for length in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="length="):
            FiniteDifference(length=length)


def test_differences_at_one_zero_task_take_the_length_of_the_others() -> None:
    theta = torch.tensor([0.0, 10.0], dtype=torch.float64, requires_grad=True)
    phi = torch.tensor([[0.0], [2e-6]], dtype=torch.float64)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return quartic(1e-6)(theta[:, None], phi)

    by = FiniteDifference()
    attach(lower, theta, phi, solver=CG(rtol=1e-6), curvature=by).sum().backward()
    assert theta.grad is not None
    right = torch.tensor([1e-6, 1e-6 / 13], dtype=torch.float64)
    assert torch.allclose(theta.grad, right, rtol=1e-8, atol=0)


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_the_remedy_of_an_indefinite_system_names_a_damping_that_helps(damping: float) -> None:
    matrix = symmetric((2,), [-0.3, 0.2, 0.4, 0.6, 0.8, 1.0], 1)
    b = right_hand_side((2,))
    solution = CG(damping=damping).solve(product(matrix), b)
    assert (solution.status == Status.INDEFINITE).all()
    for task in (0, 1):
        least = float(solution.curvature[task])
        said = remedy(solution, task)
        assert f"damp by more than {-least:.2e}" in said
        assert "GaussNewton" in said
        # its number is A's curvature, whatever the damping was: eigenvalues are at least -0.3
        assert -0.3 - 1e-12 <= least < 0
    helped = CG(damping=0.3 + N * 1e-3).solve(product(matrix), b)
    assert helped.converged.all()


def test_damping_that_was_asked_for_is_no_fault() -> None:
    matrix, b = spd((2,), KAPPA, 3, torch.float64), right_hand_side((2,))
    solution = CG(damping=0.1).solve(product(matrix), b)
    assert (solution.status == Status.DAMPED).all()
    assert solution.converged.all()
    assert (solution.residual > 0.01).all()  # of A itself, which is what was not solved
    early = CG(damping=0.1, max_steps=1).solve(product(matrix), b)
    assert (early.status == Status.OUT_OF_STEPS).all()
    assert not early.converged.any()
