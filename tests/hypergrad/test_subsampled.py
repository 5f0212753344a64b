"""Products on some blocks of a finite sum, judged on all of them."""

from __future__ import annotations

import pytest
import torch

from hypergrad import CG, Cholesky, Status, attach, hypergradient
from hypergrad.stochastic import Subsampled
from tests.hypergrad.finite_sums import THETA, M, Q, drawn, held_out, minimiser, problem, true_slope


def test_products_on_some_blocks_reach_the_answer_on_all() -> None:
    both, theta = problem(), torch.full_like(THETA, 0.5)
    phi = minimiser(theta)
    some = hypergradient(
        both, theta, phi, solver=CG(rtol=1e-9, max_steps=200), curvature=Subsampled(blocks=3)
    )
    exact = hypergradient(problem(M), theta, phi, solver=Cholesky())
    torch.testing.assert_close(some.value, exact.value, rtol=1e-12, atol=0)
    # by the residual on all data, at most 1e-9 |c|; H >= 1, |J| < 3 here
    assert bool(some.certificate.adjoint.converged)
    assert (some.grad - exact.grad).norm() < 1e-8 * (1 + exact.certificate.cotangent_norm)


@pytest.mark.parametrize(("theta", "blocks"), [(0.5, 2), (-3.0, 3)])
def test_restarts_that_run_out_of_steps_say_so(theta: float, blocks: int) -> None:
    at = torch.full_like(THETA, theta)
    short, long = (
        hypergradient(
            problem(),
            at,
            minimiser(at),
            solver=CG(rtol=1e-8, max_steps=steps),
            curvature=Subsampled(blocks=blocks),
        ).certificate.adjoint
        for steps in (24, 100)
    )
    # each restart takes a factor off the residual: what is missing is steps, not precision
    assert short.status == Status.OUT_OF_STEPS
    assert long.status == Status.CONVERGED


def test_no_dense_matrix_is_made_of_products_on_some_blocks() -> None:
    theta = torch.full_like(THETA, 0.5)
    seen = hypergradient(problem(), theta, minimiser(theta), curvature=Subsampled(blocks=3))
    assert isinstance(seen.certificate.solver, CG)  # which restarts from the whole residual
    assert bool(seen.certificate.adjoint.converged)


def test_the_certificate_judges_on_all_data() -> None:
    both, theta = problem(), torch.full_like(THETA, -3.0)
    phi = minimiser(theta)
    solver = CG(rtol=1e-9, max_steps=4, check_every=None)  # one sweep: no refinement
    seen = hypergradient(both, theta, phi, solver=solver, curvature=Subsampled(blocks=1))
    v, certificate = seen.certificate.adjoint.x, seen.certificate
    x, _ = drawn(0)
    hessian = x.T @ x / M + torch.diag(theta.exp())
    xo, yo = drawn(1)
    c = xo.T @ (xo @ phi - yo) / M
    true = (c - hessian @ v).norm() / c.norm()
    torch.testing.assert_close(certificate.adjoint.residual, true, rtol=1e-10, atol=0)
    assert not bool(certificate.solved)
    assert certificate.curvature == Subsampled(
        blocks=1
    )  # which share of the data served the solver


def test_attach_takes_a_minibatched_objective() -> None:
    theta = torch.zeros(Q, dtype=torch.float64, requires_grad=True)
    phi = attach(problem().lower, theta, minimiser(theta.detach()))
    held_out(theta, phi, drawn(1)).backward()
    torch.testing.assert_close(theta.grad, true_slope(theta.detach()), rtol=1e-12, atol=1e-12)
