"""The damping that CG picks where the curvature is negative, against eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypergrad import CG, Status, Summary, attach
from hypergrad.errors import InputError
from hypergrad.implicit.certificate import Certificate
from hypergrad.linear.damping import extremes, share
from hypergrad.linear.operator import Operator
from tests.hypergrad.systems import N, product, right_hand_side, spd, symmetric

EPS = torch.finfo(torch.float64).eps
AUTO = CG(damping="auto")


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_definite_system_is_solved_as_without_it(batch: tuple[int, ...]) -> None:
    matrix, b = spd(batch, 50, 0, torch.float64), right_hand_side(batch, torch.float64)
    plain, auto = CG().solve(product(matrix), b), AUTO.solve(product(matrix), b)
    assert torch.equal(auto.x, plain.x)
    assert auto.matvecs == plain.matvecs
    assert auto.converged.all()
    assert auto.damping is not None
    assert not auto.damping.any()


@pytest.mark.parametrize("batch", [(), (2,)])
def test_an_indefinite_system_is_damped_by_twice_its_least_eigenvalue(
    batch: tuple[int, ...],
) -> None:
    matrix = symmetric(batch, [-0.3, 0.2, 0.4, 0.6, 0.8, 1.0], 1)
    b = right_hand_side(batch, torch.float64)
    solution = AUTO.solve(product(matrix), b)
    assert (solution.status == Status.DAMPED).all()
    # six steps see all six eigenvalues; the floor, 2 / (s^2 - 2) with 60 steps, is lower
    assert solution.damping is not None
    torch.testing.assert_close(
        solution.damping, torch.full_like(solution.damping, 0.6), rtol=1e-10, atol=0
    )
    exact = torch.linalg.solve(matrix + 0.6 * torch.eye(N).double(), b)
    # residual 1e-6 |b| / 0.9 over the least damped eigenvalue, 0.3
    assert ((solution.x - exact).norm(dim=-1) <= 1e-6 / 0.9 / 0.3 * b.norm(dim=-1)).all()
    # what is reported is A's own residual, and that it is indefinite
    true = (b - product(matrix)(solution.x)).norm(dim=-1) / b.norm(dim=-1)
    torch.testing.assert_close(solution.residual, true, rtol=1e-9, atol=0)
    torch.testing.assert_close(solution.curvature, -solution.damping / 2, rtol=1e-10, atol=0)


def test_only_the_tasks_that_need_it_are_damped() -> None:
    matrix = torch.stack([spd((), 50, 0, torch.float64), symmetric((), [-0.3, *[0.5] * 5], 1)])
    b = right_hand_side((2,), torch.float64)
    solution, plain = AUTO.solve(product(matrix), b), CG().solve(product(matrix), b)
    assert solution.status.tolist() == [Status.CONVERGED, Status.DAMPED]
    assert torch.equal(solution.x[0], plain.x[0])
    assert solution.residual[0] == plain.residual[0]
    assert solution.damping is not None
    assert solution.damping[0] == 0
    assert solution.damping[1] >= 0.6 * (1 - 1e-10)


def test_the_products_are_counted() -> None:
    matrix, calls = symmetric((), [-0.3, 0.2, 0.4, 0.6, 0.8, 1.0], 1), 0

    def counted(vector: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return product(matrix)(vector)

    assert AUTO.solve(counted, right_hand_side((), torch.float64)).matvecs == calls


@pytest.mark.parametrize("length", [0.01, 0.3, 10.0])
def test_curvature_that_only_the_start_sees_is_damped_too(length: float) -> None:
    # Lanczos from b never sees the eigenvector that the start adds; CG from the start does, and of
    # a short start only once it is damped by what was met first
    diagonal = torch.tensor([-1.0, -0.1, 0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    b = torch.ones(N, dtype=torch.float64).index_fill(0, torch.tensor(0), 0.0)
    start = torch.zeros_like(b).index_fill(0, torch.tensor(0), length)
    solution = AUTO.solve(lambda v: diagonal * v, b, start)
    assert solution.status == Status.DAMPED
    assert solution.damping is not None
    # enough to make it definite, and never more than twice the most negative eigenvalue
    assert 1 < float(solution.damping) <= 2 * (1 + EPS)


def test_a_singular_system_is_damped_by_the_floor() -> None:
    diagonal = torch.tensor([1.0, 0.0], dtype=torch.float64)
    b = torch.ones(2, dtype=torch.float64)
    solution = CG(damping="auto", rtol=1e-3, max_steps=50).solve(lambda v: diagonal * v, b)
    assert solution.status == Status.DAMPED
    assert solution.damping is not None
    floor = share(50, 1e-3, torch.float64)
    torch.testing.assert_close(float(solution.damping), floor, rtol=1e-12, atol=0)


def test_an_indefinite_preconditioner_ends_as_it_does_without() -> None:
    matrix, b = spd((), 10, 0, torch.float64), right_hand_side((), torch.float64)
    solution = CG(damping="auto", preconditioner=lambda v: -v).solve(product(matrix), b)
    assert solution.status == Status.INDEFINITE


@given(
    st.integers(0, 2**31),
    st.floats(1e-6, 0.3),
    st.integers(25, 200),
    st.sampled_from([1e-2, 1e-4, 1e-6]),
)
def test_the_floor_leaves_steps_enough(seed: int, least: float, steps: int, rtol: float) -> None:
    s = 2 * steps / math.log(2 * steps / rtol)
    assert 2 <= s <= steps
    assert s * math.log(2 * s / rtol) <= 2 * steps
    generator = torch.Generator().manual_seed(seed)
    count = 60
    values = torch.rand(count, generator=generator, dtype=torch.float64).square()
    values[0], values[-1] = -least, 1.0
    b = torch.randn(count, generator=generator, dtype=torch.float64)
    damping = max(2 * least, share(steps, rtol, torch.float64))
    kappa = float((1 + damping) / (damping - least))
    assert kappa <= s * s * (1 + 10 * EPS)
    solution = CG(rtol=rtol, max_steps=steps, damping=damping).solve(lambda v: values * v, b)
    assert solution.converged


@pytest.mark.parametrize("steps", [1, 3, N, 2 * N])
def test_ritz_values_are_within_the_spectrum_and_reach_its_ends(steps: int) -> None:
    eigenvalues = [-0.3, 0.2, 0.4, 0.6, 0.8, 1.0]
    matrix, b = symmetric((2,), eigenvalues, 1), right_hand_side((2,), torch.float64)
    b[1] = 0.0  # a task that needs nothing
    least, largest = extremes(Operator(product(matrix)), b, steps)
    assert -0.3 - N * EPS <= float(least[0]) <= float(largest[0]) <= 1 + N * EPS
    assert least[1] == largest[1] == 0
    if steps >= N:
        torch.testing.assert_close(float(least[0]), -0.3, rtol=1e-10, atol=0)
        torch.testing.assert_close(float(largest[0]), 1.0, rtol=1e-10, atol=0)


def test_the_certificate_says_what_was_picked() -> None:
    diagonal = torch.tensor([-0.3, 1.0], dtype=torch.float64)
    seen: list[Certificate] = []
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def saddle(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return (diagonal * (phi - theta).square()).sum() / 2

    solver = CG(damping="auto", max_steps=100)
    phi = attach(saddle, theta, torch.zeros(2).double(), solver=solver, watch=seen.append)
    phi.sum().backward()
    (certificate,) = seen
    assert certificate.solved  # what was asked for is no fault
    assert certificate.adjoint.damping is not None
    torch.testing.assert_close(float(certificate.adjoint.damping), 0.6, rtol=1e-10, atol=0)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="give a positive rtol"):
        CG(damping="auto", rtol=0.0, max_steps=20)
    with pytest.raises(InputError, match="between two looks"):
        CG(damping="auto", max_steps=20, check_every=None)
    odd = CG()
    object.__setattr__(odd, "damping", "much")  # past the runtime checker
    with pytest.raises(InputError, match="got damping='much'.*or \"auto\""):
        odd.__post_init__()


def test_a_summary_shows_the_largest_damping() -> None:
    diagonal = torch.tensor([-0.3, 1.0], dtype=torch.float64)
    summary = Summary()
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def saddle(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return (diagonal * (phi - theta).square()).sum() / 2

    for damping in (0.7, 0.5):
        phi = torch.zeros(2, dtype=torch.float64)
        attach(saddle, theta, phi, solver=CG(damping=damping), watch=summary).sum().backward()
    assert "worst damping                   7.0e-01" in str(summary)
