"""The kernel and its adjoint solvers on quadratics: what they cost, and what they solved.

Run by ``make bench``; skipped in normal test runs. Times are for this machine only: compare the
rows of one run with each other, and read ``extra_info`` before the times.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from hypergrad import CG, Bilevel, Cholesky, LinearSolver, Neumann, hypergradient

CONDITION = 100.0
SOLVERS: dict[str, LinearSolver] = {
    "cg": CG(rtol=1e-6),
    "neumann": Neumann(step=1.0, terms=1400),  # (1 - 1/kappa)^1400 = 8e-7
    "cholesky": Cholesky(),
}


@pytest.mark.parametrize("size", [20, 100])
@pytest.mark.parametrize("tasks", [1, 16])
@pytest.mark.parametrize("name", SOLVERS)
def test_quadratic(benchmark: BenchmarkFixture, name: str, size: int, tasks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(tasks, size, size, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(draw)
    spectrum = torch.logspace(0, -2, size, dtype=torch.float64)  # kappa = CONDITION
    matrix = (basis * spectrum) @ basis.mT
    theta = torch.ones(size, dtype=torch.float64)
    phi = torch.cholesky_solve(theta.expand(tasks, size)[..., None], torch.linalg.cholesky(matrix))

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        bent: Tensor = (phi * (matrix @ phi[..., None])[..., 0]).sum(-1) / 2
        return bent - phi @ theta

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return phi.square().sum(-1) / 2

    problem = Bilevel(upper=upper, lower=lower)
    result = benchmark(lambda: hypergradient(problem, theta, phi[..., 0], solver=SOLVERS[name]))
    # f = |A^{-1} theta|^2 / 2, so grad F = mean A^{-1} phi*
    exact = torch.linalg.solve(matrix, phi)[..., 0].mean(0)
    error = float((result.grad - exact).norm() / exact.norm())
    adjoint = result.certificate.adjoint
    benchmark.extra_info |= {
        "error": error,
        "worst_residual": float(adjoint.residual.max()),
        "matvecs": adjoint.matvecs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    assert error <= 2 * CONDITION * adjoint.residual.max() + 1e-12
