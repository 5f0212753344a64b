"""Cost and error of a linear solve, by solver, size and batch."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.provenance import SEED, provenance
from hypergrad import CG, MINRES, Cholesky, LinearSolver, Neumann, NormalCG, preconditioners
from metalearn.memory import LiveBytes

CONDITION = 100.0
SOLVERS: dict[str, LinearSolver] = {
    "cg": CG(rtol=1e-6),
    "cg, a look each 8 steps": CG(rtol=1e-6, check_every=8),
    "cg with jacobi": CG(rtol=1e-6, preconditioner=preconditioners.Jacobi()),
    "minres": MINRES(rtol=1e-6),
    "normal cg": NormalCG(rtol=1e-6),
    "neumann": Neumann(step_size=1.0, max_steps=1400),  # (1 - 1/kappa)^1400 = 8e-7
    "cholesky": Cholesky(),
}


@pytest.mark.parametrize("size", [100, pytest.param(1000, marks=pytest.mark.full)])
@pytest.mark.parametrize("tasks", [1, 16])
@pytest.mark.parametrize("name", SOLVERS)
def test_solve(benchmark: BenchmarkFixture, name: str, size: int, tasks: int) -> None:
    draw = torch.Generator().manual_seed(SEED)
    basis, _ = torch.linalg.qr(torch.randn(tasks, size, size, generator=draw, dtype=torch.float64))
    matrix = (basis * torch.logspace(0, -2, size, dtype=torch.float64)) @ basis.mT
    rhs = torch.randn(tasks, size, generator=draw, dtype=torch.float64)

    def apply(vector: Tensor) -> Tensor:
        image: Tensor = matrix @ vector[..., None]
        return image[..., 0]

    with LiveBytes([matrix, rhs]) as live:
        SOLVERS[name].solve(apply, rhs)
    found = benchmark(lambda: SOLVERS[name].solve(apply, rhs))
    exact = torch.linalg.solve(matrix, rhs)
    error = float(((found.x - exact).norm(dim=-1) / exact.norm(dim=-1)).max())
    residual = float(found.residual.max())
    benchmark.extra_info |= provenance() | {
        "error": error,
        "worst_residual": residual,
        "matvecs": found.matvecs,
        "peak_bytes": live.peak,
        "saved_bytes": 0,  # solvers run without a graph
    }
    # |x - A^{-1} b| <= |A^{-1}| |r|, and |A^{-1} b| >= |b| / |A|; plus rounding of both solves
    assert error <= CONDITION * residual + 1e-12 * CONDITION
