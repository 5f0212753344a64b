"""The certified loop against fixed tolerances: its share of error holds, products are counted."""

from __future__ import annotations

import torch

from benchmarks.certified import constants, foreseen, loop
from benchmarks.peer_cases import Softmax
from hypergrad import Bilevel, hypergradient


def test_a_certified_loop_keeps_its_share_and_a_smaller_tolerance_costs_more() -> None:
    problem, theta = Softmax.drawn(20, 4, 3)
    certified = loop(problem, theta, steps=2, share=0.1)
    rough, fine = (loop(problem, theta, steps=2, tolerance=rtol) for rtol in (1e-2, 1e-6))
    assert certified.error <= 0.1
    assert rough.products < fine.products
    assert fine.error < rough.error
    assert min(certified.bound, rough.bound, fine.bound) >= 1  # a bound on the error


def test_the_constants_bound_what_they_name() -> None:
    """By the eigenvalues of H at two points, and the difference of H and J between them."""
    problem, theta = Softmax.drawn(20, 4, 3)
    phi, unit = problem.minimiser(theta), torch.eye(12, dtype=torch.float64)
    other = phi + 0.1 * torch.ones_like(phi)
    known = constants(problem, theta, phi)
    here, there = (
        torch.stack([problem.product_at(theta, point)(column) for column in unit])
        for point in (phi, other)
    )
    eigenvalues = torch.linalg.eigvalsh(here)
    assert float(known.strong_convexity.value) <= eigenvalues[0]
    assert known.smoothness is not None
    assert eigenvalues[-1] <= float(known.smoothness.value)
    moved = (other - phi).norm()
    lipschitz = float(known.hessian_lipschitz.value)
    assert torch.linalg.matrix_norm(there - here, 2) <= lipschitz * moved
    cross = [torch.stack([problem.pull(theta, p, column) for column in unit]) for p in (phi, other)]
    assert torch.linalg.matrix_norm(cross[0], 2) <= float(known.coupling.value) * (1 + 1e-12)
    turned = torch.linalg.matrix_norm(cross[1] - cross[0], 2)
    assert turned <= float(known.coupling_lipschitz.value) * moved
    bilevel = Bilevel(upper=problem.upper, lower=problem.lower)
    assert float(hypergradient(bilevel, theta, phi).certificate.stationarity) < 1e-12


def test_who_knows_the_error_takes_no_more_products_than_a_tolerance_that_keeps_it() -> None:
    problem, theta = Softmax.drawn(30, 6, 3)
    fixed = loop(problem, theta, steps=3, tolerance=10**-3.25)  # a tolerance that is tried, too
    known = foreseen(problem, theta, steps=3, error=fixed.error)
    assert known.error <= fixed.error
    assert 0 < known.products <= fixed.products
    assert known.bound >= 1
