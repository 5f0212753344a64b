"""Roots, fixed points and saddles given to attach, argmin, hypergradient and pullback."""

from __future__ import annotations

from collections.abc import Callable
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
    Detached,
    GradientDescent,
    Implicit,
    Neumann,
    Newton,
    NormalCG,
    OneStep,
    Status,
    Unrolled,
    argmin,
    attach,
    curvature,
    errors,
    hypergradient,
    preconditioners,
    pullback,
)
from hypergrad.conditions import FixedPoint, Root, Stationary
from hypergrad.settings import check_function
from hypergrad.solvers import GMRES, LU, Anderson, BiCGStab, Broyden, Iteration, NewtonKrylov

N, P = 5, 3
generator = torch.Generator().manual_seed(0)
W = 0.7 * torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))[0]
U = torch.randn(N, P, generator=generator, dtype=torch.float64)
C = torch.randn(N, generator=generator, dtype=torch.float64)
THETA = torch.randn(P, generator=generator, dtype=torch.float64)
BATCHES = [(), (3,), (2, 3)]


def layer(theta: Tensor, phi: Tensor) -> Tensor:
    """A contraction by 0.7 whose Jacobian is as far from symmetric as a rotation."""
    return torch.tanh(phi @ W.to(phi).T + theta @ U.to(phi).T)


def equations(theta: Tensor, phi: Tensor) -> Tensor:
    return 50 * (phi - layer(theta, phi))


def upper(theta: Tensor, phi: Tensor) -> Tensor:
    return phi @ C.to(phi) + phi.square().sum(-1)


def start(batch: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(*batch, N, dtype=dtype)


def inputs(batch: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """A theta for each task."""
    spread = torch.linspace(-1, 1, max(1, torch.Size(batch).numel()), dtype=torch.float64)
    return (THETA + spread[:, None]).reshape(*batch, P).to(dtype)


def solution(theta: Tensor) -> Tensor:
    phi = torch.zeros(*theta.shape[:-1], N, dtype=theta.dtype)
    for _ in range(150):  # 0.7^150 < 1e-23
        phi = layer(theta, phi)
    return phi


def exact(theta: Tensor) -> Tensor:
    """d upper / d theta by the implicit function theorem, dense, one task at a time."""
    rows = []
    for one in theta.double().reshape(-1, P):
        phi = solution(one)
        slope = 1 - phi.square()
        v = torch.linalg.solve((torch.eye(N) - slope[:, None] * W).T.double(), C + 2 * phi)
        rows.append((slope[:, None] * U).T @ v)
    return torch.stack(rows).reshape(theta.shape)


CONDITIONS: dict[str, Any] = {
    "root": lambda tasks: Root(equations, tasks=tasks),
    "fixed point": lambda tasks: FixedPoint(layer, tasks=tasks),
}
SOLVERS = [None, LU(), GMRES(rtol=1e-6), GMRES(rtol=1e-6, restart=2), BiCGStab(rtol=1e-6)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", CONDITIONS)
def test_the_hypergradient_is_the_implicit_function_theorems(
    name: str, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    theta = inputs(batch, dtype).requires_grad_()
    phi = solution(theta.detach())
    want = exact(theta.detach())
    # |v - v*| <= |A^-1| |r|, |A^-1| <= 1/(1 - 0.7), and rounding of phi as much
    bound = 10 * (1e-6 + 20 * torch.finfo(dtype).eps)
    for solver in SOLVERS:
        for tasks in {0, len(batch)}:  # all as one system, or each its own
            seen: list[Certificate] = []
            condition = CONDITIONS[name](tasks)
            found = attach(condition, theta, phi, solver=solver, watch=seen.append)
            (got,) = torch.autograd.grad(upper(theta, found).sum(), theta)
            assert float((got - want).norm() / want.norm()) < bound
            assert seen[0].stationarity.shape == batch[:tasks]
            assert bool(seen[0].solved.all()), str(seen[0])
            assert seen[0].v.shape == phi.shape


def test_all_faces_agree() -> None:
    theta, phi = inputs((3,)), solution(inputs((3,)))
    condition: Any = Root(equations, tasks=1)
    found = hypergradient(Bilevel(upper=upper, lower=condition), theta, phi)
    want = exact(theta) / 3
    assert float((found.grad - want).norm() / want.norm()) < 1e-12
    grad, certificate = pullback(condition, theta, phi, C + 2 * phi)
    assert float((grad / 3 - want).norm() / want.norm()) < 1e-12
    assert isinstance(certificate.solver, LU)
    again, second = pullback(
        condition, theta, phi, C + 2 * phi, solver=GMRES(), start=certificate.v
    )
    assert torch.equal(again, grad)  # the start is the answer
    assert int(second.adjoint.steps.max()) == 0


def test_a_larger_system_goes_to_gmres_and_a_saddle_to_minres() -> None:
    n = 200
    shift = torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()
    seen: list[Certificate] = []
    turned: Any = FixedPoint(lambda theta, phi: 0.5 * phi.roll(1, -1) + theta)
    grid = torch.eye(n, dtype=torch.float64)
    at = torch.linalg.solve(grid - 0.5 * grid.roll(1, 0), shift.detach())
    attach(turned, shift, at, watch=seen.append).sum().backward()
    kinds = [type(one.solver) for one in seen]
    assert kinds == [GMRES]
    signs = torch.where(torch.arange(n) % 2 == 0, 1.0, -2.0).double()
    saddle: Any = Stationary(lambda theta, phi: (signs * phi.square()).sum() / 2 - theta @ phi)
    attach(saddle, shift, shift.detach() / signs, watch=seen.append).sum().backward()
    kinds = [type(one.solver) for one in seen]
    assert kinds == [GMRES, MINRES]
    assert all(bool(one.solved.all()) for one in seen)


def test_the_newton_step_of_a_point_that_is_no_root_is_measured() -> None:
    theta = inputs((3,)).requires_grad_()
    phi = solution(theta.detach())
    off = phi + 0.1 * torch.tensor([[1.0], [0.0], [-1.0]], dtype=torch.float64)
    seen: list[Certificate] = []
    attached = attach(Root(equations, tasks=1), theta, off, watch=seen.append)
    upper(theta, attached).sum().backward()
    jacobian = torch.func.vmap(torch.func.jacrev(equations, argnums=1))(theta.detach(), off)
    residual = equations(theta.detach(), off)
    step = torch.linalg.solve(jacobian, residual)
    true = step.norm(dim=-1) / off.norm(dim=-1)
    # a lower bound, exact once it is told from the threshold by as many products as unknowns
    assert (seen[0].newton_step <= true * (1 + 1e-10)).all()
    assert (seen[0].newton_step > 0.01)[[0, 2]].all()
    assert seen[0].at_minimiser.tolist() == [False, True, False]
    with pytest.warns(errors.AdjointWarning, match=r"no root of the condition.*\|F\| is"):
        attach(FixedPoint(layer), theta, off).sum().backward()


def test_the_predicted_error_is_right_to_second_order() -> None:
    theta = inputs(())
    phi, away = solution(theta), torch.tensor([0.6, 0, 0, -0.8, 0], dtype=torch.float64)
    problem: Any = Bilevel(upper=upper, lower=Root(equations))
    errors_of = [
        float((hypergradient(problem, theta, phi + h * away).corrected_value) - upper(theta, phi))
        for h in (1e-2, 1e-3)
    ]
    assert 90 < errors_of[0] / errors_of[1] < 110  # a tenth of the distance, a hundredth of it


@pytest.mark.parametrize("solver", [None, GMRES(), BiCGStab(), LU()], ids=str)
def test_a_singular_jacobian_is_said(solver: Any) -> None:
    matrix = torch.tensor([[1.0, 2.0], [0.5, 1.0]], dtype=torch.float64)
    theta = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    condition: Any = Root(lambda theta, phi: matrix @ phi - theta)
    phi = attach(condition, theta, torch.tensor([1.0, 0.0], dtype=torch.float64), solver=solver)
    with pytest.warns(errors.AdjointWarning, match="STAGNATED.*singular"):
        phi[0].backward()


def test_a_solve_out_of_steps_is_said() -> None:
    theta = THETA.clone().requires_grad_()
    phi = attach(FixedPoint(layer), theta, solution(THETA), solver=GMRES(max_steps=2))
    with pytest.warns(errors.AdjointWarning, match="OUT_OF_STEPS"):
        phi.sum().backward()


def test_neumann_and_one_step_serve_a_fixed_point() -> None:
    """The series of a rotation by 0.7 meets directions with p'Ap < 0 and converges all the same."""
    theta = THETA.clone().requires_grad_()
    rotation = torch.tensor([[0.0, -0.99], [0.99, 0.0]], dtype=torch.float64)
    matrix = torch.block_diag(rotation, 0.1 * torch.eye(3, dtype=torch.float64))
    condition: Any = FixedPoint(lambda theta, phi: phi @ matrix.T - phi @ matrix + theta @ U.T)
    at = torch.linalg.solve(torch.eye(N).double() - matrix + matrix.T, U @ THETA)
    seen: list[Certificate] = []
    attach(condition, theta, at, watch=seen.append, solver=LU()).sum().backward()
    series = Neumann(step_size=0.2, max_steps=400)
    attach(condition, theta, at, watch=seen.append, solver=series).sum().backward()
    assert int(seen[1].adjoint.status) == Status.CONVERGED
    assert torch.allclose(seen[0].v, seen[1].v, rtol=1e-5)
    adjoint = OneStep(step_size=1.0)
    phi = argmin(FixedPoint(layer), theta, start(()), by=Iteration(), adjoint=adjoint)
    (got,) = torch.autograd.grad(phi @ C, theta)
    # v = c: the derivative of T at the point, without its inverse
    want = torch.autograd.grad(layer(theta, phi.detach()) @ C, theta)[0]
    assert torch.allclose(got, want, rtol=1e-12)


def test_a_preconditioner_is_transposed_for_backward() -> None:
    theta = inputs((3,)).requires_grad_()
    phi = solution(theta.detach())
    jacobian = torch.func.vmap(torch.func.jacrev(equations, argnums=1))(theta.detach(), phi)
    seen: list[Certificate] = []
    inverse = preconditioners.ApproximateInverse(torch.linalg.inv(jacobian))
    for kind in (GMRES, BiCGStab):
        solver = kind(preconditioner=inverse)
        condition = Root(equations, tasks=1)
        found = attach(condition, theta, phi, solver=solver, watch=seen.append)
        upper(theta, found).sum().backward()
        assert seen[-1].adjoint.steps.tolist() == [1, 1, 1]  # the exact inverse: one step
    bad = GMRES(preconditioner=preconditioners.ApproximateInverse(torch.eye(4)))
    found = attach(Root(equations, tasks=1), theta, phi, solver=bad)
    with pytest.raises(errors.InputError, match=r"give \(5, 5\) or \(3, 5, 5\)"):
        found.sum().backward()


def test_a_changed_equation_is_refused_and_rounding_is_not() -> None:
    theta = THETA.clone().requires_grad_()
    scale = torch.ones((), dtype=torch.float64)
    condition: Any = Root(lambda theta, phi: phi - scale * layer(theta, phi))
    phi = attach(condition, theta, solution(THETA))
    scale.mul_(1 + 1e-15)
    (first,) = torch.autograd.grad(phi.sum(), theta, retain_graph=True)
    scale.mul_(1.01)
    with pytest.raises(errors.InputError, match="at the same point in backward"):
        phi.sum().backward()
    assert bool(first.isfinite().all())


def test_rounding_of_a_residual_that_is_zero_is_no_change() -> None:
    # F = phi + (theta - 0.1) at phi = 0: zero at one evaluation, rounding of theta at the other
    theta = torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)
    noise = torch.full((), 1e-17, dtype=torch.float64)
    condition: Any = Root(lambda theta, phi: phi + (theta - 0.1) + noise)
    phi = attach(condition, theta, torch.zeros(2, dtype=torch.float64))
    noise.zero_()
    (first,) = torch.autograd.grad(phi.sum(), theta, retain_graph=True)
    assert first.tolist() == [-1.0, -1.0]
    noise.fill_(1e-6)
    with pytest.raises(errors.InputError, match="at the same point in backward"):
        phi.sum().backward()


NO_SOLVER: Any = GMRES
LINEAR: Any = Stationary(lambda theta, phi: (theta[0] * phi).sum())
REFUSALS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "CG": (lambda t: attach(Root(equations), t, start(()), solver=CG()), "CG.*symmetric.*GMRES"),
    "MINRES": (lambda t: attach(Root(equations), t, start(()), solver=MINRES()), "MINRES.*Root"),
    "NormalCG": (
        lambda t: attach(FixedPoint(layer), t, start(()), solver=NormalCG()),
        "NormalCG.*FixedPoint",
    ),
    "Cholesky": (lambda t: attach(Root(equations), t, start(()), solver=Cholesky()), "Cholesky"),
    "CG on a saddle": (
        lambda t: attach(LINEAR, t, start(()), solver=CG()),
        "declares the Hessian indefinite; use MINRES",
    ),
    "another curvature": (
        lambda t: (
            attach(
                FixedPoint(layer),
                t,
                start(()),
                curvature=curvature.FiniteDifference(),
            )
            .sum()
            .backward()
        ),
        "leave curvature out",
    ),
    "a minimiser's solver": (
        lambda t: argmin(Root(equations), t, start(()), by=Newton(), adjoint=Implicit()),
        "by is Newton, which solves no Root",
    ),
    "a minimiser's solver for a saddle": (
        lambda t: argmin(
            LINEAR,
            t,
            start(()),
            by=GradientDescent(max_steps=1, step_size=0.1),
            adjoint=Implicit(),
        ),
        "solves no Stationary",
    ),
    "a root's solver": (
        lambda t: argmin(upper, t, start(()), by=NewtonKrylov(), adjoint=Implicit()),
        "NewtonKrylov, which minimises no objective",
    ),
    "Anderson on a root": (
        lambda t: argmin(Root(equations), t, start(()), by=Anderson(), adjoint=Implicit()),
        "Anderson iterates a map, and Root has none",
    ),
    "unrolled": (
        lambda t: argmin(FixedPoint(layer), t, start(()), by=Iteration(), adjoint=Unrolled()),
        r"FixedPoint states an equation; use Implicit",
    ),
    "a class": (
        lambda t: attach(Root(equations), t, start(()), solver=NO_SOLVER),
        "the class GMRES",
    ),
    "one value": (lambda t: attach(Root(upper), t, start(())), r"phi: \(\);.*phi: \(5,\)"),
    "another tree": (
        lambda t: attach(FixedPoint[Any, Any](lambda t, p: {"a": p}), t, start(())),
        r"returned phi\['a'\]: \(5,\)",
    ),
    "whole numbers": (
        lambda t: attach(Root(lambda t, p: (p - t[0]).long()), t, start(())),
        "the function of Root returned phi of torch.int64; it must return floating-point",
    ),
    "too many tasks": (lambda t: attach(Root(equations, tasks=2), t, start(())), "tasks=2"),
    "no dependence on phi": (
        lambda t: attach(Root(lambda t, p: p.detach() + t[0]), t, start(())),
        "the function of Root does not depend on phi, so that nothing determines it",
    ),
    "no dependence on theta": (
        lambda t: attach(Root(lambda t, p: p - 1), t, start(())),
        "phi does not depend on theta: the function of Root does not use theta",
    ),
    "a captured tensor": (
        lambda t: attach(Root(lambda _, p: p - t.sum()), t.detach(), start(())),
        "neither in theta nor in phi",
    ),
    # which the constructors call; here they have types checked before
    "no function": (lambda t: check_function("Root", 3, "a tensor"), "Root got a int"),
    "no objective": (
        lambda t: Newton().minimise(FixedPoint(layer), t.detach(), start(())),
        "Newton, which solves no FixedPoint",
    ),
    "tasks": (lambda t: FixedPoint(layer, tasks=-1), "FixedPoint got tasks=-1"),
    "damping": (lambda t: Anderson(damping=0.0), "Anderson got damping"),
    "depth": (lambda t: Broyden(depth=0), "depth >= 1"),
    "restart": (lambda t: GMRES(restart=0), "restart >= 1"),
    "at once": (lambda t: LU(at_once=0), "at_once"),
    "rtol": (lambda t: LU(rtol=0.0), "rtol"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    act, message = REFUSALS[name]
    with pytest.raises(errors.InputError, match=message):
        act(THETA.clone().requires_grad_())


def test_nan_is_named() -> None:
    theta = THETA.clone().requires_grad_()
    with pytest.raises(errors.NotFiniteError, match="the function of Root is not finite"):
        attach(Root(lambda theta, phi: phi.log() - theta[0]), theta, -torch.ones(2).double())
    steep = attach(Root(lambda t, p: p.abs().sqrt() - 0 * t[0]), theta, torch.zeros(2).double())
    with pytest.raises(errors.NotFiniteError, match="a product with the Jacobian dF/dphi"):
        steep.sum().backward()
    draws = iter((1.0, 2.0, 3.0, 4.0))
    drawn = attach(Root(lambda t, p: p - next(draws) * t[0]), theta, torch.zeros(2).double())
    with pytest.raises(errors.InputError, match=r"\|F\| of the function of Root was .* when phi"):
        drawn.sum().backward()
    diverging: Any = FixedPoint(lambda theta, phi: 9 * phi + theta[0], tasks=1)
    with pytest.raises(errors.NotFiniteError, match=r"\|F\| where Iteration ended of task 0"):
        argmin(diverging, theta, start((2,)), by=Iteration(), adjoint=Implicit())


def test_detached_has_no_derivative() -> None:
    theta = THETA.clone().requires_grad_()
    phi = argmin(FixedPoint(layer), theta, start(()), by=Anderson(), adjoint=Detached())
    assert not phi.requires_grad
    assert torch.allclose(phi, solution(THETA), atol=1e-5)
