"""Each set and penalty by each solver of symmetric systems; and systems that have no solution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import (
    CG,
    MINRES,
    Bilevel,
    Certificate,
    Cholesky,
    Hypergradient,
    Implicit,
    NormalCG,
    argmin,
    hypergradient,
)
from hypergrad.conditions import L1, Box, Composite, Constrained, NonNegative, Simplex
from hypergrad.solvers import CoordinateDescent, ProximalGradient
from tests.hypergrad.conditions.problems import CONDITIONS, SOLVE, Least, start, theta

D = torch.float64
KAPPA = 100.0  # of the Hessians of `Least`, at most


def solved(made: Any, at: Tensor, phi: Tensor, solver: Any) -> Hypergradient[Tensor]:
    def upper(t: Tensor, p: Tensor) -> Tensor:
        return p.square().reshape(*batch, -1).sum(-1) + p.reshape(*batch, -1)[..., 0]

    batch = made(at, phi).shape
    problem: Any = Bilevel(upper=upper, lower=made)
    return hypergradient(problem, at, phi, solver=solver)


BATCHES: tuple[tuple[int, ...], ...] = ((), (3,), (2, 2))


# each condition in one shape of batch, and two of them in all
@pytest.mark.parametrize(
    ("name", "batch"),
    [
        *((name, BATCHES[index % 3]) for index, name in enumerate(CONDITIONS)),
        *(("ball of theta", batch) for batch in (BATCHES[1], BATCHES[2])),
        *(("l1 of theta", batch) for batch in (BATCHES[0], BATCHES[2])),
    ],
)
def test_every_solver_finds_the_same_derivative_in_both_precisions(
    name: str, batch: tuple[int, ...]
) -> None:
    # test_derivatives holds that of CG in float64 against differences, the claims against rationals
    wide = Least.drawn(batch)
    phi = SOLVE.minimise(CONDITIONS[name](wide), theta(), start(name, batch)).phi
    exact = solved(CONDITIONS[name](wide), theta(), phi, CG(rtol=1e-13)).grad
    for dtype in (torch.float32, D):
        eps = torch.finfo(dtype).eps
        made = CONDITIONS[name](Least(wide.X.to(dtype), wide.y.to(dtype)))
        rtol = 10 * eps
        for solver in (
            CG(rtol=rtol),
            MINRES(rtol=rtol),
            NormalCG(rtol=rtol),
            Cholesky(),
            None,
        ):
            found = solved(made, theta().to(dtype), phi.to(dtype), solver)
            # the residual's share times kappa, and phi's rounding times a third derivative
            close = 100 * KAPPA * eps * (1 + float(exact.norm()))
            off = float((found.grad.double() - exact).norm())
            assert off <= close, (dtype, solver, off, close)
            assert found.grad.dtype == dtype


def test_coordinates_that_are_all_free_leave_the_smooth_hypergradient() -> None:
    at = theta()
    smooth = Least.drawn((2,))
    phi = SOLVE.minimise(Constrained(smooth, Box(-100.0, 100.0)), at, start("box", (2,))).phi
    plain = solved(smooth, at, phi, Cholesky()).grad
    for made in (
        Constrained(smooth, Box(-100.0, 100.0)),
        Constrained(smooth, Box(None, 100.0)),
        Composite(smooth, L1(0.0)),
    ):
        found = solved(made, at, phi, Cholesky())
        assert torch.allclose(found.grad, plain, rtol=1e-12, atol=0.0)
        assert bool(found.certificate.solved.all())
        assert bool((found.certificate.active.margin > 0).all())  # type: ignore[union-attr]


def flat(t: Tensor, p: Tensor) -> Tensor:
    """``(x0 + x1 - t)^2/2 + (x2 - t)^2/2``, flat along (1, -1, 0)."""
    return ((p[..., 0] + p[..., 1] - t).square() + (p[..., 2] - t).square()) / 2


def flat_certificate(made: Any, phi: Tensor, solver: Any, weight: Tensor) -> Certificate:
    problem: Any = Bilevel(upper=lambda t, p: (p * weight).sum(-1), lower=made)
    return hypergradient(problem, torch.tensor(0.5, dtype=D), phi, solver=solver).certificate


@pytest.mark.parametrize("solver", [CG(), MINRES(), NormalCG(), Cholesky(), None], ids=str)
def test_a_singular_tangent_system_is_said(solver: Any) -> None:
    # two entries of which only the sum is known, both free; nothing else is wrong with phi
    phi = torch.tensor([0.2, 0.3, 0.5], dtype=D)
    apart = torch.tensor([1.0, -1.0, 0.0], dtype=D)
    made: Any = Constrained(flat, NonNegative())
    assert not bool(flat_certificate(made, phi, solver, apart).solved)
    # a bound that holds one of them leaves a regular system
    held = torch.tensor([0.0, 0.5, 0.5], dtype=D)
    bound: Any = Constrained(lambda t, p: flat(t, p) + 0.1 * p[..., 0], NonNegative())
    assert bool(flat_certificate(bound, held, solver, apart).solved)


@pytest.mark.parametrize("by", [ProximalGradient(rtol=1e-12), CoordinateDescent(rtol=1e-12)])
def test_an_infeasible_start_is_brought_in(by: Any) -> None:
    smooth, at = Least.drawn((2,)), theta().requires_grad_()
    made: Any = Constrained(smooth, Box(-0.4, 0.4))
    grads: list[Tensor] = []
    for begin in (torch.zeros(2, 6, dtype=D), torch.full((2, 6), 7.0, dtype=D)):
        phi = argmin(made, at, begin, by=by, adjoint=Implicit(Cholesky()))
        assert bool((phi.abs() <= 0.4).all())
        grads += torch.autograd.grad(phi.square().sum(), at)
    assert torch.allclose(grads[0], grads[1], rtol=0.0, atol=1e-9)


def test_a_degenerate_vertex_is_no_derivative_and_is_named() -> None:
    # theta on the corner itself: both bounds are met with multipliers of zero
    at = torch.tensor([1.0, 0.0], dtype=D)

    def pull(t: Tensor, p: Tensor) -> Tensor:
        return (p - t).square().sum(-1) / 2

    for within in (Box(0.0, 1.0), Simplex()):
        found = solved(Constrained(pull, within), at, at, Cholesky()).certificate
        assert not bool(found.solved), within
        assert found.active is not None
        assert float(found.active.margin) == 0.0
        message = found.active.words(at)
        assert "one-sided" in message
        assert "phi[" in message
