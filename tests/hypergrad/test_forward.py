"""Forward and unrolled differentiation of the lower steps, against the steps' closed form."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from hypergrad import (
    Adjoint,
    GradientDescent,
    LowerSolver,
    Newton,
    Truncated,
    Unrolled,
    argmin,
    forward,
)
from hypergrad.errors import DoubleBackwardError, InputError
from hypergrad.forward import Forward
from hypergrad.lower.nesterov import Nesterov
from tests.hypergrad.problems import P, Q, Toy

EPS = torch.finfo(torch.float64).eps
STEP = 0.1
BATCHES = [(), (3,), (2, 3)]
SOLVERS: list[LowerSolver] = [
    GradientDescent(max_steps=0, step_size=STEP),
    GradientDescent(max_steps=1, step_size=STEP),
    GradientDescent(max_steps=30, step_size=STEP),
    GradientDescent(max_steps=200, step_size=STEP, rtol=1e-3),
    Nesterov(max_steps=1, step_size=STEP),
    Nesterov(max_steps=2, step_size=STEP, condition=8.0),
    Nesterov(max_steps=30, step_size=STEP, condition=8.0),
    Nesterov(max_steps=60, step_size=STEP),
    Nesterov(max_steps=200, step_size=STEP, rtol=1e-3),
]


class Quad:
    """g = 1/2 phi'A phi - phi'(B theta + c), whose K-step iterates are affine in theta."""

    def __init__(self, batch: tuple[int, ...]) -> None:
        toy = Toy(batch)
        self.a, self.b, self.theta, self.start = toy.a, toy.b, toy.theta, toy.start + 1

    def lower(self, theta: Tensor, phi: Tensor) -> Tensor:
        curved = (phi * (self.a @ phi[..., None])[..., 0]).sum(-1) / 2
        return curved - (phi * (self.b @ theta)).sum(-1)


def jacobian(quad: Quad, by: LowerSolver) -> Tensor:
    """dphi_K/dtheta in closed form, ``(*batch, n, p)``, by matrix powers or the recursion."""
    eye = torch.eye(Q, dtype=torch.float64)
    if isinstance(by, GradientDescent):
        limit: Tensor = torch.linalg.solve(quad.a, quad.b)
        power = torch.linalg.matrix_power(eye - by.step_size * quad.a, by.max_steps)
        reached: Tensor = limit - power @ limit
        return reached
    assert isinstance(by, Nesterov)
    assert by.condition is not None
    beta = (by.condition**0.5 - 1) / (by.condition**0.5 + 1)
    now = before = torch.zeros_like(quad.b)
    for _ in range(by.max_steps):
        ahead = now + beta * (now - before)
        now, before = ahead - by.step_size * (quad.a @ ahead - quad.b), now
    return now


def gradient(quad: Quad | Toy, by: LowerSolver, adjoint: Adjoint, weights: Tensor) -> Tensor:
    theta = quad.theta.clone().requires_grad_()
    phi = argmin(quad.lower, theta, quad.start, by=by, adjoint=adjoint)
    if not phi.requires_grad:
        return torch.zeros_like(theta)
    (grad,) = torch.autograd.grad((phi * weights).sum(), theta)
    return grad


def weights_of(batch: tuple[int, ...]) -> Tensor:
    return torch.randn(*batch, Q, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


CLOSED = [
    by
    for by in SOLVERS
    if (isinstance(by, GradientDescent) and by.rtol == 0)
    or (isinstance(by, Nesterov) and by.condition is not None)
]


def error_and_tolerance(
    batch: tuple[int, ...], by: LowerSolver, adjoint: Adjoint
) -> tuple[float, float]:
    quad, weights = Quad(batch), weights_of(batch)
    truth = torch.einsum("...np,...n->p", jacobian(quad, by), weights)
    error = (gradient(quad, by, adjoint, weights) - truth).norm()
    # each step rounds dphi_k/dtheta, |A^{-1}B| at most, by Q u or so; the steps contract by
    # 1 - STEP mu, so that the sum of all of it is 1/(STEP mu) = 10 times that at most
    scale = torch.linalg.solve(quad.a, quad.b).norm() * weights.norm()
    return float(error), float(10 * 10 * Q * EPS * scale)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("by", CLOSED, ids=str)
@pytest.mark.parametrize("adjoint", [Forward(), Unrolled(), Truncated(steps=10**6)], ids=str)
def test_the_derivative_of_k_steps_is_the_closed_form(
    batch: tuple[int, ...], by: LowerSolver, adjoint: Adjoint
) -> None:
    error, tolerance = error_and_tolerance(batch, by, adjoint)
    assert error <= tolerance


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("by", SOLVERS, ids=str)
def test_forward_is_unrolled_to_round_off(batch: tuple[int, ...], by: LowerSolver) -> None:
    toy, weights = Toy(batch), weights_of(batch)
    forward, unrolled = (gradient(toy, by, way, weights) for way in (Forward(), Unrolled()))
    scale = toy.b.norm() * weights.norm()  # mu >= 1: |A^{-1}B| <= |B|
    assert (forward - unrolled).norm() <= 10 * 10 * Q * EPS * scale
    assert bool(forward.any()) == (by.max_steps > 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", [SOLVERS[2], SOLVERS[3], SOLVERS[7], SOLVERS[8]], ids=str)
def test_the_value_is_the_lower_solvers_whatever_the_adjoint(by: LowerSolver) -> None:
    toy = Toy((3,))
    plain = by.minimise(toy.lower, toy.theta, toy.start).phi
    for adjoint in (Forward(), Unrolled(), Truncated(steps=2)):
        theta = toy.theta.clone().requires_grad_()
        assert torch.equal(argmin(toy.lower, theta, toy.start, by=by, adjoint=adjoint), plain)


def test_forgetting_thetas_own_part_of_a_step_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    push = forward._push

    def forgetful(outputs: list[Tensor], inputs: list[Tensor], tangents: list[Tensor]) -> object:
        first = 0 * tangents[0] if len(tangents) > 1 else tangents[0]
        return push(outputs, inputs, [first, *tangents[1:]])

    monkeypatch.setattr(forward, "_push", forgetful)
    error, tolerance = error_and_tolerance(
        (3,), GradientDescent(max_steps=30, step_size=STEP), Forward()
    )
    assert error > 1e9 * tolerance


def test_forgetting_the_momentum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    push = forward._push

    def forgetful(outputs: list[Tensor], inputs: list[Tensor], tangents: list[Tensor]) -> object:
        return push(outputs, inputs, [*tangents[:2], *(0 * tangent for tangent in tangents[2:])])

    monkeypatch.setattr(forward, "_push", forgetful)
    by = Nesterov(max_steps=30, step_size=STEP, condition=8.0)
    error, tolerance = error_and_tolerance((3,), by, Forward())
    assert error > 1e9 * tolerance


def test_trees_and_tensors_that_need_no_derivative() -> None:
    toy = Toy((3,))

    def lower(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
        whole = torch.cat([phi["head"][..., None], phi["rest"]], dim=-1)
        return toy.lower(theta["free"] * theta["scale"] + theta["fixed"], whole)

    grads = []
    for adjoint in (Forward(), Unrolled()):
        free, scale = toy.theta.clone().requires_grad_(), torch.ones(()).double().requires_grad_()
        theta = {"free": free, "fixed": torch.zeros_like(toy.theta), "scale": scale}
        phi0 = {"head": toy.start[..., 0], "rest": toy.start[..., 1:]}
        by = Nesterov(max_steps=20, step_size=STEP)
        phi = argmin(lower, theta, phi0, by=by, adjoint=adjoint)
        assert list(phi) == ["head", "rest"]
        loss = phi["head"].square().sum() + phi["rest"].exp().sum()
        grads.append(torch.autograd.grad(loss, (free, scale)))
    for pushed, unrolled in zip(*grads, strict=True):
        assert torch.allclose(pushed, unrolled, rtol=1e-12, atol=1e-13)


class Kept:
    """A tensor that some graph keeps for backward; dies with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept(steps: int, adjoint: Adjoint) -> int:
    """Bytes that the minimiser's graph keeps: by saved_tensors_hooks and by the node itself."""
    toy, sizes = Toy((3,)), dict[int, int]()
    theta = toy.theta.clone().requires_grad_()
    by = GradientDescent(max_steps=steps, step_size=STEP)
    phi = argmin(toy.lower, theta, toy.start, by=by, adjoint=adjoint)
    gc.collect()
    node = phi.grad_fn
    assert node is not None
    for column in node.columns:  # type: ignore[attr-defined]
        sizes[column.untyped_storage().data_ptr()] = column.untyped_storage().nbytes()
    return sum(sizes.values())


def test_forward_keeps_p_vectors_whatever_k() -> None:
    assert {kept(steps, Forward()) for steps in (1, 5, 50)} == {P * 3 * Q * 8}


def test_forward_lets_every_steps_graph_go() -> None:
    counts = []
    for steps in (5, 20):
        toy, alive, most = Toy((3,)), weakref.WeakSet[Kept](), [0]

        def pack(
            tensor: Tensor, alive: weakref.WeakSet[Kept] = alive, most: list[int] = most
        ) -> Kept:
            kept = Kept(tensor)
            alive.add(kept)
            most[0] = max(most[0], len(alive))
            return kept

        theta = toy.theta.clone().requires_grad_()
        by = GradientDescent(max_steps=steps, step_size=STEP)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            argmin(toy.lower, theta, toy.start, by=by, adjoint=Forward())
        counts.append(most[0])
    assert counts[0] == counts[1]


def test_what_forward_refuses() -> None:
    toy, by = Toy((3,)), GradientDescent(max_steps=3, step_size=STEP)
    theta = toy.theta.clone().requires_grad_()
    start = toy.start.clone().requires_grad_()
    with pytest.raises(InputError, match=r"phi0 requires grad.*Unrolled\(\)"):
        argmin(toy.lower, theta, start, by=by, adjoint=Forward())
    with pytest.raises(InputError, match=r"Newton has no differentiable step.*Nesterov"):
        argmin(toy.lower, theta, toy.start, by=Newton(), adjoint=Forward())
    phi = argmin(toy.lower, theta, toy.start, by=by, adjoint=Forward())
    # linear in phi: the missing second derivative would be a silent zero
    loss = phi.sum() + theta.square().sum()
    (grad,) = torch.autograd.grad(loss, theta, create_graph=True)
    with pytest.raises(DoubleBackwardError, match=r"Unrolled\(\)"):
        grad.sum().backward()


@pytest.mark.parametrize("adjoint", [Forward(), Unrolled(), Truncated(steps=2)], ids=str)
def test_no_graph_where_none_is_wanted(adjoint: Adjoint) -> None:
    toy, by = Toy((3,)), Nesterov(max_steps=3, step_size=STEP)
    assert not argmin(toy.lower, toy.theta, toy.start, by=by, adjoint=adjoint).requires_grad
    theta = toy.theta.clone().requires_grad_()
    with torch.no_grad():
        assert not argmin(toy.lower, theta, toy.start, by=by, adjoint=adjoint).requires_grad
