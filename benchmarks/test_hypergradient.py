"""A generic hypergradient: what does it cost, by solver, and against the peers that are installed?

Run by ``make bench``; skipped in normal test runs. Times are for this machine only: compare the
rows of one run with each other, and read ``extra_info`` before the times. Peers have an environment
of their own (benchmarks/peers.py): where none is installed, this library is compared with itself.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.peer_cases import CASES
from benchmarks.peer_rows import at_minimiser
from benchmarks.peers import measure
from benchmarks.provenance import provenance
from hypergrad import CG, Bilevel, Cholesky, Hypergradient, LinearSolver, Neumann, hypergradient
from metalearn.memory import LiveBytes
from tests.metalearn.measure import SavedBytes

CONDITION = 100.0
SOLVERS: dict[str, LinearSolver] = {
    "cg": CG(rtol=1e-6),
    "neumann": Neumann(step_size=1.0, max_steps=1400),  # (1 - 1/kappa)^1400 = 8e-7
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

    def run() -> Hypergradient[Tensor]:
        return hypergradient(problem, theta, phi[..., 0], solver=SOLVERS[name])

    with LiveBytes([matrix, theta, phi]) as live, SavedBytes() as saved:
        run()
    result = benchmark(run)
    # f = |A^{-1} theta|^2 / 2, so grad F = mean A^{-1} phi*
    exact = torch.linalg.solve(matrix, phi)[..., 0].mean(0)
    error = float((result.grad - exact).norm() / exact.norm())
    adjoint = result.certificate.adjoint
    benchmark.extra_info |= provenance() | {
        "error": error,
        "worst_residual": float(adjoint.residual.max()),
        "matvecs": adjoint.matvecs,
        "peak_bytes": live.peak,
        "saved_bytes": saved.peak,
    }
    assert error <= 2 * CONDITION * adjoint.residual.max() + 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "quadratic-100",
        *(pytest.param(name, marks=pytest.mark.full) for name in CASES if name != "quadratic-100"),
    ],
)
def test_against_peers(benchmark: BenchmarkFixture, name: str) -> None:
    case = CASES[name]()
    rows = measure(at_minimiser(name), rounds=5)["methods"]
    problem: Bilevel[Tensor, Tensor] = Bilevel(upper=case.upper, lower=case.lower)
    found = benchmark(lambda: hypergradient(problem, case.theta, case.phi, solver=CG(rtol=1e-6)))
    benchmark.extra_info |= provenance() | {"error": case.error(found.grad), "rows": rows}
    assert rows[0]["ratio"] == 1  # this library is its own reference
