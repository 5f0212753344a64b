"""Roots, fixed points and saddles are ordinary differentiable values: every transform, exactly.

``F(theta, phi) = (M + diag(e^theta)) phi - y`` with an M that is not symmetric; its root
``(M + diag(e^theta))^{-1} y`` is differentiated by torch to any order.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.func as tf
from torch import Tensor

from hypergrad import Certificate, LinearSolver, attach, errors
from hypergrad.conditions import FixedPoint, Root, Stationary

from .test_transforms import (
    EXACT,
    MANY,
    MAPPED,
    THETA,
    TRANSFORMS,
    Function,
    N,
    X,
    Y,
    each,
    error,
    loss,
)

torch.manual_seed(1)
SKEW = torch.randn(N, N, dtype=torch.float64)
M = X.T @ X / 8 + (SKEW - SKEW.T)
RIGHT = X.T @ Y / 8


def root(theta: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(M + theta.exp().diag())
    return inverse @ RIGHT


def equations(theta: Tensor, phi: Tensor) -> Tensor:
    return M @ phi + theta.exp() * phi - RIGHT


def image(theta: Tensor, phi: Tensor) -> Tensor:
    """A map with the same fixed point, which need not contract for its derivative."""
    return phi - 0.1 * equations(theta, phi)


def lagrangian(theta: Tensor, phi: Tensor) -> Tensor:
    """A game of two, ``min`` over the first half and ``max`` over the second."""
    first, second = phi[:2], phi[2:]
    own = (theta.exp()[:2] * first.square()).sum() - (theta.exp()[2:] * second.square()).sum()
    return 0.5 * own + first @ SKEW[:2, :2] @ second - (RIGHT * phi).sum()


def saddle(theta: Tensor) -> Tensor:
    signs = torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)
    off = torch.zeros(N, N, dtype=torch.float64)
    off[:2, 2:] = SKEW[:2, :2]
    inverse: Tensor = torch.linalg.inv((theta.exp() * signs).diag() + off + off.T)
    return inverse @ RIGHT


CONDITIONS: dict[str, tuple[Any, Function]] = {
    "Root": (Root(equations), root),
    "FixedPoint": (FixedPoint(image), root),
    "Stationary": (Stationary(lagrangian), saddle),
}


def attached(name: str, solver: LinearSolver | None = None) -> Function:
    condition, solution = CONDITIONS[name]

    def phi(theta: Tensor) -> Tensor:
        found: Tensor = attach(condition, theta, solution(theta.detach()).detach(), solver=solver)
        return found

    return phi


# one kernel serves all three: roots take the whole table, the others a part of it
FEW = ("backward", "jacfwd", "double backward", "hessian")
CASES = [("Root", name) for name in TRANSFORMS]
CASES += [(condition, name) for condition in ("FixedPoint", "Stationary") for name in FEW]


@pytest.mark.parametrize(("condition", "name"), CASES)
def test_attach_under(name: str, condition: str) -> None:
    # kappa < 20 and dense solves: errors of 20 roundings times the derivatives' growth
    transform, solution = TRANSFORMS[name], CONDITIONS[condition][1]
    assert error(transform(attached(condition))(THETA), transform(solution)(THETA)) < EXACT


MAPPED_CASES = [("Root", name) for name in MAPPED]
MAPPED_CASES += [
    ("FixedPoint", "vmap"),
    ("Stationary", "vmap grad"),
    ("Stationary", "vmap hessian"),
]


@pytest.mark.parametrize(("condition", "name"), MAPPED_CASES)
def test_attach_mapped(name: str, condition: str) -> None:
    transform, solution = MAPPED[name], CONDITIONS[condition][1]
    assert error(transform(attached(condition))(MANY), transform(solution)(MANY)) < EXACT


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_gradient_of_a_mapped_solution(condition: str) -> None:
    phi, solution = attached(condition), CONDITIONS[condition][1]
    got = tf.grad(lambda many: tf.vmap(loss(phi))(many).sum())(MANY)
    assert error(got, each(tf.grad(loss(solution)))(MANY)) < EXACT


def test_gradcheck_and_gradgradcheck() -> None:
    theta = THETA.clone().requires_grad_()
    assert torch.autograd.gradcheck(attached("Root"), theta)
    assert torch.autograd.gradgradcheck(attached("Root"), theta)


def test_trees_and_tasks_under_transforms() -> None:
    """Two leaves in another order than F's, three tasks with a theta each."""

    def system(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = torch.cat([phi["a"], phi["b"]], dim=-1)
        out = whole @ M.T + theta["log"].exp() * whole - RIGHT
        return {"b": out[..., 1:], "a": out[..., :1]}

    def phi(theta: Tensor) -> Tensor:
        at = root_of_each(theta.detach())
        condition = Root(system, tasks=theta.ndim - 1)
        found = attach(condition, {"log": theta}, {"a": at[..., :1], "b": at[..., 1:]})
        return torch.cat([found["a"], found["b"]], dim=-1)

    def root_of_each(theta: Tensor) -> Tensor:
        return each(root)(theta) if theta.ndim > 1 else root(theta)

    for name in ("backward", "hessian", "jacfwd", "double backward"):
        transform = TRANSFORMS[name]
        assert error(transform(phi)(THETA), transform(root)(THETA)) < EXACT
        assert error(transform(phi)(MANY), transform(root_of_each)(MANY)) < EXACT
    want = each(tf.grad(loss(root)))(MANY)
    assert error(tf.vmap(tf.grad(loss(phi)))(MANY), want) < EXACT


def test_every_solve_is_seen_and_only_the_half_that_is_needed_is_solved() -> None:
    seen: list[Certificate] = []

    def phi(theta: Tensor) -> Tensor:
        at = root(theta.detach())
        return attach(Root(equations), theta, at, watch=seen.append)

    tf.grad(lambda theta: phi(theta).sum())(THETA)
    tf.jvp(phi, (THETA,), (THETA,))
    assert [one.adjoint.matvecs for one in seen] == [N + 1, N + 1]  # dense, and its residual
    assert [tuple(one.adjoint.x.shape) for one in seen] == [(N,), (N,)]
    seen.clear()
    tf.hessian(loss(phi))(THETA)
    assert len(seen) > 2
    assert all(bool(one.solved.all()) for one in seen)


def test_a_captured_tensor_of_a_transform_is_named() -> None:
    def phi(shift: Tensor) -> Tensor:
        condition: Any = Root(lambda theta, phi: equations(theta + shift, phi))
        return attach(condition, THETA, root(THETA))

    with pytest.raises(errors.TransformError, match="Pass it in theta"):
        tf.grad(lambda shift: phi(shift).sum())(torch.zeros_like(THETA))
