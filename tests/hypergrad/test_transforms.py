"""A minimiser is an ordinary differentiable value: every transform, against closed forms.

The problem is ridge regression with a penalty for each coefficient, whose minimiser
``phi*(theta) = (X'X/m + diag(e^theta))^{-1} X'y/m`` torch differentiates by itself to any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.func as tf
from torch import Tensor
from torch.autograd import forward_ad

from hypergrad import (
    CG,
    MINRES,
    Adjoint,
    Certificate,
    Cholesky,
    Detached,
    Forward,
    GradientDescent,
    Implicit,
    LinearSolver,
    Newton,
    OneStep,
    Truncated,
    Unrolled,
    Woodbury,
    argmin,
    attach,
    curvature,
    errors,
    objectives,
)

torch.manual_seed(0)
N = 4
X, Y = torch.randn(8, N, dtype=torch.float64) / 2, torch.randn(8, dtype=torch.float64)
THETA = 0.3 * torch.randn(N, dtype=torch.float64)
MANY = torch.stack([THETA, THETA + 0.1, THETA - 0.2])
WEIGHTS = torch.randn(N, dtype=torch.float64)
# kappa < 3 here: a residual of 1e-13 leaves errors below 1e-12 times the derivatives' growth
TIGHT = CG(rtol=1e-14)
EXACT = 1e-11
Function = Callable[[Tensor], Tensor]


def ridge(theta: Tensor, phi: Tensor) -> Tensor:
    return 0.5 * (X @ phi - Y).square().mean() + 0.5 * (theta.exp() * phi.square()).sum()


def minimiser(theta: Tensor) -> Tensor:
    # not linalg.solve: torch 2.13's forward derivative of it, differentiated again, is wrong
    inverse: Tensor = torch.linalg.inv(X.T @ X / 8 + theta.exp().diag())
    return inverse @ (X.T @ Y / 8)


def attached(theta: Tensor, solver: LinearSolver | None = TIGHT) -> Tensor:
    return attach(ridge, theta, minimiser(theta.detach()).detach(), solver=solver)


def loss(phi: Function) -> Function:
    """An upper objective that bends in phi and sees theta beside."""
    return lambda theta: (phi(theta) * WEIGHTS).sum() + phi(theta).pow(3).sum() + theta.sin().sum()


def each(function: Function) -> Function:
    return lambda many: torch.stack([function(one) for one in many])


def backward(phi: Function, theta: Tensor) -> Tensor:
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(loss(phi)(theta), theta)[0]


def double_backward(phi: Function, theta: Tensor) -> Tensor:
    hessian: Tensor = torch.autograd.functional.hessian(loss(phi), theta)
    return hessian


def triple_backward(phi: Function, theta: Tensor) -> Tensor:
    def curved(theta: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(loss(phi)(theta), theta, create_graph=True)
        (bend,) = torch.autograd.grad(slope.pow(2).sum(), theta, create_graph=True)
        return bend.sum()

    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(curved(theta), theta)[0]


def dual(phi: Function, theta: Tensor) -> Tensor:
    with forward_ad.dual_level():
        pair = forward_ad.make_dual(theta, WEIGHTS)
        tangent: Tensor | None = forward_ad.unpack_dual(loss(phi)(pair)).tangent
    assert tangent is not None
    return tangent


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "backward": lambda phi: lambda t: backward(phi, t),
    "grad": lambda phi: tf.grad(loss(phi)),
    "vjp": lambda phi: lambda t: tf.vjp(phi, t)[1](WEIGHTS)[0],
    "jvp": lambda phi: lambda t: tf.jvp(phi, (t,), (WEIGHTS,))[1],
    "jacrev": lambda phi: tf.jacrev(phi),
    "jacfwd": lambda phi: tf.jacfwd(phi),
    "make_dual": lambda phi: lambda t: dual(phi, t),
    "functional.jacobian": lambda phi: lambda t: torch.autograd.functional.jacobian(phi, t),
    "vectorize": lambda phi: lambda t: torch.autograd.functional.jacobian(phi, t, vectorize=True),
    "forward-mode": lambda phi: (
        lambda t: torch.autograd.functional.jacobian(
            phi, t, vectorize=True, strategy="forward-mode"
        )
    ),
    "double backward": lambda phi: lambda t: double_backward(phi, t),
    "third": lambda phi: lambda t: triple_backward(phi, t),
    "hessian": lambda phi: tf.hessian(loss(phi)),
    "jacrev jacrev": lambda phi: tf.jacrev(tf.jacrev(loss(phi))),
    "jacrev jacfwd": lambda phi: tf.jacrev(tf.jacfwd(loss(phi))),
    "hvp": lambda phi: lambda t: tf.jvp(tf.grad(loss(phi)), (t,), (WEIGHTS,))[1],
    "grad grad grad": lambda phi: tf.grad(
        lambda t: tf.grad(lambda s: tf.grad(loss(phi))(s).pow(2).sum())(t).sin().sum()
    ),
    "jacrev hessian": lambda phi: tf.jacrev(tf.hessian(loss(phi))),
}
MAPPED: dict[str, Callable[[Function], Function]] = {
    "vmap": lambda phi: tf.vmap(phi),
    "vmap grad": lambda phi: tf.vmap(tf.grad(loss(phi))),
    "vmap jacfwd": lambda phi: tf.vmap(tf.jacfwd(phi)),
    "vmap hessian": lambda phi: tf.vmap(tf.hessian(loss(phi))),
    "vmap jacrev grad": lambda phi: tf.vmap(tf.jacrev(tf.grad(loss(phi)))),
}


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_attach_under(name: str) -> None:
    transform = TRANSFORMS[name]
    assert error(transform(attached)(THETA), transform(minimiser)(THETA)) < EXACT


@pytest.mark.parametrize("name", MAPPED)
def test_attach_mapped(name: str) -> None:
    transform = MAPPED[name]
    assert error(transform(attached)(MANY), transform(minimiser)(MANY)) < EXACT


def test_the_gradient_of_a_mapped_minimiser() -> None:
    got = tf.grad(lambda many: tf.vmap(loss(attached))(many).sum())(MANY)
    assert error(got, tf.vmap(tf.grad(loss(minimiser)))(MANY)) < EXACT


def test_a_mapped_minimiser_with_a_shared_theta() -> None:
    def phi(starts: Tensor) -> Tensor:
        each: Tensor = tf.vmap(lambda start: attach(ridge, shared, start, solver=TIGHT))(starts)
        return each

    shared = THETA.clone().requires_grad_()
    exact = minimiser(THETA).expand(3, N)
    (got,) = torch.autograd.grad((phi(exact) * WEIGHTS).sum(), shared)
    want = 3 * tf.vjp(minimiser, THETA)[1](WEIGHTS)[0]
    assert error(got, want) < EXACT


@pytest.mark.parametrize("name", ["vmap jacfwd", "vmap hessian"])
def test_forward_derivatives_need_none_of_the_objective(name: str) -> None:
    # torch 2.13's are wrong: of cholesky_inverse, and under vmap of solve for all but one task
    def quadratic(theta: Tensor, phi: Tensor) -> Tensor:
        inverse: Tensor = torch.linalg.inv(X.T @ X / 8 + theta.exp().diag())
        hessian = torch.cholesky_inverse(torch.linalg.cholesky(inverse))
        linear: Tensor = torch.linalg.solve(inverse, inverse @ X.T @ Y / 8)
        return (0.5 * hessian @ phi - linear) @ phi

    def phi(theta: Tensor) -> Tensor:
        return attach(quadratic, theta, minimiser(theta.detach()).detach(), solver=TIGHT)

    assert error(MAPPED[name](phi)(MANY), MAPPED[name](minimiser)(MANY)) < EXACT


def solve_by(adjoint: Adjoint) -> Function:
    # mu > 0.79 and L < 1.7 at all theta here, so that a step leaves |1 - 0.8 l| < 0.37 of what it
    # found: 0.37^34 < 3e-15 of the start is left, and 34^2 times as much of a second derivative
    by = GradientDescent(max_steps=34, step_size=0.8)

    def phi(theta: Tensor) -> Tensor:
        start = torch.zeros(N, dtype=torch.float64)
        return argmin(ridge, theta, start, by=by, adjoint=adjoint)

    return phi


ONCE = [name for name in TRANSFORMS if name in ("backward", "grad", "jvp", "jacrev", "jacfwd")]
ONCE += ["make_dual", "vjp", "forward-mode", "vectorize"]
TWICE = ["hessian", "double backward", "jacrev jacrev", "hvp"]


@pytest.mark.parametrize("name", [*ONCE, *TWICE])
@pytest.mark.parametrize("adjoint", [Implicit(TIGHT), Implicit(), Unrolled()], ids=str)
def test_argmin_under(name: str, adjoint: Adjoint) -> None:
    transform = TRANSFORMS[name]
    assert error(transform(solve_by(adjoint))(THETA), transform(minimiser)(THETA)) < 1e-9


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("adjoint", [Forward(), Truncated(steps=28)], ids=str)
def test_adjoints_that_are_differentiable_once(name: str, adjoint: Adjoint) -> None:
    transform = TRANSFORMS[name]
    # 0.37^28 < 1e-12 of the series is left out
    assert error(transform(solve_by(adjoint))(THETA), transform(minimiser)(THETA)) < 1e-9


@pytest.mark.parametrize("adjoint", [Implicit(TIGHT), Unrolled(), Forward()], ids=str)
def test_argmin_mapped(adjoint: Adjoint) -> None:
    phi = solve_by(adjoint)
    assert error(tf.vmap(phi)(MANY), each(minimiser)(MANY)) < 1e-10
    want = each(tf.grad(loss(minimiser)))(MANY)
    assert error(tf.vmap(tf.grad(loss(phi)))(MANY), want) < 1e-9


def test_steps_that_vmap_hides_are_not_counted() -> None:
    steps = GradientDescent(step_size=0.4, max_steps=200, rtol=1e-6)
    start = torch.zeros(N, dtype=torch.float64)
    with pytest.raises(errors.TransformError, match="which Truncated counts first.*rtol=0"):
        tf.vmap(lambda t: argmin(ridge, t, start, by=steps, adjoint=Truncated(steps=20)))(MANY)


@pytest.mark.parametrize("name", ["hessian", "double backward", "hvp"])
def test_forward_says_that_it_is_differentiable_once(name: str) -> None:
    with pytest.raises(errors.DoubleBackwardError, match="Use adjoint=Unrolled"):
        TRANSFORMS[name](solve_by(Forward()))(THETA)


@pytest.mark.parametrize("name", ["grad", "jvp", "jacrev", "make_dual", "backward"])
def test_detached_has_no_derivative_under_any_transform(name: str) -> None:
    transform = TRANSFORMS[name]
    if name in ("grad", "make_dual", "backward"):
        want = transform(lambda theta: minimiser(THETA))(THETA)
        assert error(transform(solve_by(Detached()))(THETA), want) < 1e-9
    else:
        assert float(transform(solve_by(Detached()))(THETA).abs().max()) == 0.0


def test_one_step_is_implicit_with_one_neumann_term_under_transforms() -> None:
    phi = solve_by(OneStep(step_size=0.8))
    plain = TRANSFORMS["backward"](phi)(THETA)
    assert error(tf.grad(loss(phi))(THETA), plain) < 1e-13


SOLVERS = [TIGHT, Cholesky(), MINRES(rtol=1e-14)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_gradcheck_and_gradgradcheck(solver: LinearSolver) -> None:
    theta = THETA.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: attached_from(t, solver), theta)
    assert torch.autograd.gradgradcheck(lambda t: attached_from(t, solver), theta)


def attached_from(theta: Tensor, solver: LinearSolver) -> Tensor:
    return attach(ridge, theta, minimiser(theta.detach()), solver=solver)


def test_gradcheck_and_gradgradcheck_in_closed_form() -> None:
    inputs = torch.randn(2, 3, 5, dtype=torch.float64).requires_grad_()
    targets = torch.randn(2, 3, 2, dtype=torch.float64)
    objective = objectives.RidgeRegression(targets, 0.3)

    def head(inputs: Tensor) -> Tensor:
        found = objective.minimiser(inputs.detach())
        return attach(objective, inputs, found, solver=Woodbury())

    assert torch.autograd.gradcheck(head, inputs)
    assert torch.autograd.gradgradcheck(head, inputs)
    inputs = inputs.detach()
    got = tf.vmap(tf.grad(lambda one: head(one).pow(2).sum()))(torch.stack([inputs, 2 * inputs]))
    for index, one in enumerate((inputs, 2 * inputs)):
        one = one.detach().requires_grad_()
        (want,) = torch.autograd.grad(head(one).pow(2).sum(), one)
        assert error(got[index], want) < EXACT


def test_every_solve_is_seen_whatever_the_transform() -> None:
    seen: list[Certificate] = []

    def phi(theta: Tensor) -> Tensor:
        return attach(
            ridge, theta, minimiser(theta.detach()).detach(), solver=TIGHT, watch=seen.append
        )

    tf.vmap(tf.grad(loss(phi)))(MANY)
    assert [tuple(one.stationarity.shape) for one in seen] == [(3,), (3,)]  # two uses of phi
    seen.clear()
    tf.hessian(loss(phi))(THETA)
    assert len(seen) > 2
    assert all(bool(one.solved.all()) for one in seen)


def test_linearize_is_refused_with_the_way_round() -> None:
    with pytest.raises(errors.TransformError, match=r"use torch\.func\.jvp"):
        tf.linearize(attached, THETA)


@pytest.mark.parametrize("adjoint", [Implicit(TIGHT), Unrolled(), Forward()], ids=str)
def test_forward_over_forward_is_refused_with_the_way_round(adjoint: Adjoint) -> None:
    phi = solve_by(adjoint)
    with pytest.raises(errors.TransformError, match="Use reverse mode for one of them"):
        tf.jacfwd(tf.jacfwd(loss(phi)))(THETA)


def test_trees_under_transforms() -> None:
    def lower(theta: Any, phi: Any) -> Tensor:
        return ridge(theta["a"][0] + theta["b"], torch.cat([phi[0], phi[1]["rest"]]))

    def phi(theta: Tensor) -> Tensor:
        parts = {"a": [theta], "b": torch.zeros_like(theta)}
        at = minimiser(theta.detach()).detach()
        first, second = attach(lower, parts, (at[:1], {"rest": at[1:]}), solver=TIGHT)
        return torch.cat([first, second["rest"]])

    for name in ("backward", "hessian", "jacfwd", "double backward"):
        transform = TRANSFORMS[name]
        assert error(transform(phi)(THETA), transform(minimiser)(THETA)) < EXACT
    assert error(tf.vmap(tf.grad(loss(phi)))(MANY), each(tf.grad(loss(minimiser)))(MANY)) < EXACT


def test_a_captured_tensor_of_a_transform_is_named() -> None:
    def phi(theta: Tensor, shift: Tensor) -> Tensor:
        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            return ridge(theta + shift, phi)

        return attach(lower, theta, minimiser(theta.detach()).detach(), solver=TIGHT)

    shifts = torch.zeros_like(MANY)
    with pytest.raises(errors.TransformError, match="captures 'shift'.*Pass it in theta"):
        tf.vmap(phi)(MANY, shifts)
    with pytest.raises(errors.TransformError, match="captures 'shift'"):
        tf.grad(lambda shift: phi(THETA, shift).sum())(shifts[0])


def test_a_second_derivative_through_another_curvature_is_refused() -> None:
    def phi(theta: Tensor) -> Tensor:
        at = minimiser(theta.detach()).detach()
        return attach(
            ridge, theta, at, solver=CG(rtol=1e-9), curvature=curvature.FiniteDifference()
        )

    want = tf.grad(loss(minimiser))(THETA)
    assert error(tf.grad(loss(phi))(THETA), want) < 1e-7  # the differences' stated error
    with pytest.raises(errors.DoubleBackwardError, match="FiniteDifference"):
        tf.hessian(loss(phi))(THETA)


@pytest.mark.parametrize("outer", [Implicit(CG(rtol=1e-13)), Unrolled()], ids=str)
@pytest.mark.parametrize("inner", [Implicit(TIGHT), Unrolled()], ids=str)
def test_three_levels(inner: Adjoint, outer: Adjoint) -> None:
    """A minimiser within a lower objective: ``z* = phi*(theta + z)`` pulled towards zero."""
    # 0.37^25 < 2e-11; the middle level's Hessian is 8 to 8.1, and (1 - 0.8)^20 < 1e-13
    steps = GradientDescent(max_steps=25, step_size=0.8)
    start = torch.zeros(N, dtype=torch.float64)

    def middle(found: Function) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda theta, z: (found(theta + z) - 1).square().sum() + 4 * z.square().sum()

    def inside(theta: Tensor) -> Tensor:
        return argmin(ridge, theta, start, by=steps, adjoint=inner)

    def solved(found: Function, adjoint: Adjoint) -> Function:
        by = GradientDescent(max_steps=20, step_size=0.1)
        return lambda theta: argmin(middle(found), theta, start, by=by, adjoint=adjoint)

    got = backward(solved(inside, outer), THETA)
    want = backward(solved(minimiser, Implicit(CG(rtol=1e-13))), THETA)
    assert error(got, want) < 1e-8


def test_an_objective_may_differentiate_inside_at_leaves_of_its_own() -> None:
    """A physics-informed objective: u' = theta at points that the objective makes itself."""

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        at = torch.linspace(0, 1, 5, dtype=torch.float64).requires_grad_()
        u = phi[0] * at + phi[1] * at.square()
        (slope,) = torch.autograd.grad(u.sum(), at, create_graph=True)
        return (slope - theta).square().mean() + 1e-3 * phi.square().sum()

    theta = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    phi = argmin(
        lower, theta, torch.zeros(2, dtype=torch.float64), by=Newton(), adjoint=Implicit(TIGHT)
    )
    phi[0].backward()
    # linear in theta: the derivative is phi* / theta
    assert theta.grad is not None
    assert abs(float(theta.grad) - float(phi[0].detach()) / 1.3) < 1e-10
