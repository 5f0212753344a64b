"""Derivatives of constrained and composite solutions, of any kind, against differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Bilevel, Cholesky, Implicit, argmin, attach, hypergradient
from hypergrad.conditions import L1, Box, Composite, Constrained, NonNegative, Simplex, reach
from hypergrad.errors import InputError
from tests.hypergrad.conditions.problems import CONDITIONS, SOLVE, Least, condition, start, theta

# Central differences with h = eps^(1/3) err by some h^2 = 4e-11 times third derivatives of order
# one, and by rounding of phi (rtol 1e-13 times kappa < 100) over h: below 1e-5 in all.
NEAR = 1e-5


def solution(name: str, batch: tuple[int, ...], at: Tensor) -> Tensor:
    found: Tensor = SOLVE.minimise(condition(name, batch), at, start(name, batch)).phi
    return found


def weights(phi: Tensor) -> Tensor:
    return torch.linspace(-1.0, 2.0, phi.numel(), dtype=phi.dtype).reshape(phi.shape)


def differences(name: str, batch: tuple[int, ...], at: Tensor) -> Tensor:
    """Central differences, whose points are so many tasks of one solve."""
    h = torch.finfo(at.dtype).eps ** (1 / 3)
    steps = h * torch.eye(len(at), dtype=at.dtype)
    moved = torch.cat([at + steps, at - steps]).reshape(-1, *(1 for _ in batch), len(at))
    begin = start(name, (len(moved), *batch))
    phi = SOLVE.minimise(condition(name, batch), moved, begin).phi
    values: Tensor = (weights(phi[0]) * phi).flatten(1).sum(-1)
    found: Tensor = (values[: len(at)] - values[len(at) :]) / (2 * h)
    return found


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_derivative_is_that_of_the_solution(name: str) -> None:
    for batch in ((), (2, 2)) if name in ("simplex", "l1 of theta") else ((2,),):
        at = theta().requires_grad_()
        seen: list[Any] = []
        phi = solution(name, batch, at.detach())
        found = attach(condition(name, batch), at, phi, solver=CG(rtol=1e-12), watch=seen.append)
        (weights(phi) * found).sum().backward()
        assert at.grad is not None
        assert bool(seen[0].solved.all()), str(seen[0])
        assert torch.allclose(at.grad, differences(name, batch, at.detach()), atol=NEAR, rtol=NEAR)


def test_something_is_held_and_something_is_free() -> None:
    for name in ("box", "simplex", "ball", "l1", "groups", "rank"):
        phi = solution(name, (), theta())
        multipliers, distances = condition(name, ()).slacks(theta(), phi, torch.zeros_like(phi))
        assert bool(multipliers[0].isfinite().any()), name
        assert name == "ball" or bool(distances[0].isfinite().any()), name


OF_THETA = ("box", "simplex", "ball", "affine", "l1", "groups", "rank")


@pytest.mark.parametrize("name", [f"{kind} of theta" for kind in OF_THETA])
def test_transforms_and_second_derivatives_agree(name: str) -> None:
    batch, made = (2,), condition(name, (2,))

    def solved(at: Tensor) -> Tensor:
        adjoint = Implicit(Cholesky())
        return argmin(made, at, start(name, batch), by=SOLVE, adjoint=adjoint, watch=lambda c: None)

    def value(at: Tensor) -> Tensor:
        return solved(at).square().sum()

    at = theta()
    phi = solved(at)
    backward = torch.autograd.functional.jacobian(solved, at)
    assert torch.allclose(torch.func.jacfwd(solved)(at), backward, atol=1e-10)
    mapped = torch.func.vmap(torch.func.jacrev(solved))(torch.stack([at, at + 0.001]))
    assert torch.allclose(mapped[0], backward, atol=1e-10)
    assert phi.shape == backward.shape[:-1]
    hessian = torch.func.hessian(value)(at)
    h = 1e-5
    gradient = torch.func.grad(value)
    steps = h * weights(at)  # the product with one vector
    wanted = (gradient(at + steps) - gradient(at - steps)) / (2 * h)
    assert torch.allclose(hessian @ weights(at), wanted, atol=NEAR, rtol=NEAR)
    assert torch.allclose(hessian, hessian.mT, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_no_unit_of_g_or_phi_changes_the_derivative(scale: float) -> None:
    for name in ("simplex", "ball", "affine", "l1 of theta"):
        plain, at = condition(name, ()), theta()
        phi = solution(name, (), at)

        g = plain.g

        def scaled(t: Tensor, p: Tensor, g: Any = g) -> Tensor:
            values: Tensor = scale * g(t, p)
            return values

        grads = []
        penalty: Any = L1(lambda t: scale * (t.square() + 0.2))
        for made in (
            plain,
            Constrained(scaled, plain.within)
            if isinstance(plain, Constrained)
            else Composite(scaled, penalty),
        ):
            problem: Any = Bilevel(upper=lambda t, p: (weights(p) * p).sum(), lower=made)
            found = hypergradient(problem, at, phi, solver=CG(rtol=1e-12))
            assert bool(found.certificate.solved), str(found.certificate)
            grads.append(found.grad)
        assert torch.allclose(grads[0], grads[1], rtol=1e-8)


def test_a_vertex_has_derivative_zero_and_no_refusal() -> None:
    at = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    made: Any = Composite(lambda t, p: (p - 1).square().sum() / 2, L1(lambda t: t))
    phi = attach(made, at, torch.zeros(3, dtype=torch.float64))
    phi.sum().backward()
    assert at.grad is not None
    assert float(at.grad) == 0.0
    corner: Any = Constrained(lambda t, p: (p - t).square().sum() / 2, Box(-1.0, 1.0))
    attach(corner, at, torch.ones(3, dtype=torch.float64)).sum().backward()
    assert float(at.grad) == 0.0


def test_a_product_over_the_leaves_of_a_tree() -> None:
    # min (w - a)^2/2 + (s - c)^2/2 + (u - a0)^2/2: w >= 0, s on the simplex, u free
    def g(t: dict[str, Tensor], p: dict[str, Tensor]) -> Tensor:
        apart = (p["w"] - t["a"]).square().sum() + (p["s"] - t["c"]).square().sum()
        return (apart + (p["u"] - t["a"][0]).square()) / 2

    a = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    made = Constrained(g, {"u": None, "s": Simplex(), "w": NonNegative()})
    phi0 = {
        "w": torch.ones(2, dtype=torch.float64),
        "s": torch.zeros(3, dtype=torch.float64),
        "u": torch.zeros((), dtype=torch.float64),
    }
    phi = argmin(made, {"a": a, "c": c}, phi0, by=SOLVE, adjoint=Implicit())
    assert torch.allclose(phi["w"], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert torch.allclose(phi["s"], torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64))
    loss = phi["w"].sum() + (phi["s"] * torch.tensor([1.0, 2.0, 3.0])).sum() + phi["u"]
    da, dc = torch.autograd.grad(loss, [a, c])
    # by hand: dw/da = diag(1, 0), du/da = (1, 0), and the simplex's I - 11'/2 on its support
    assert torch.allclose(da, torch.tensor([2.0, 0.0], dtype=torch.float64))
    assert torch.allclose(dc, torch.tensor([-0.5, 0.5, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions(dtype: torch.dtype) -> None:
    wide, eps = Least.drawn((3,)), torch.finfo(dtype).eps
    made = Constrained(wide, Simplex())
    low = Constrained(Least(wide.X.to(dtype), wide.y.to(dtype)), Simplex())
    by = type(SOLVE)(rtol=100 * eps)
    at = theta()
    phi = by.minimise(low, at.to(dtype), start("simplex", (3,), dtype)).phi
    problem = Bilevel(upper=lambda t, p: p.square().sum(-1), lower=low)
    found = hypergradient(problem, at.to(dtype), phi)
    exact = hypergradient(
        Bilevel(upper=lambda t, p: p.square().sum(-1), lower=made),
        at,
        solution("simplex", (3,), at),
    )
    assert bool(found.certificate.solved.all())
    # kappa of X'X is below 100 here, of which phi's error and the adjoint's have one factor each
    assert float((found.grad - exact.grad).norm()) < 100 * 100 * 100 * eps


def test_reach_is_where_the_active_set_changes() -> None:
    # the projection of t onto [0, 1]^2: entry 0 is 0.3 from its bound, entry 1 has multiplier 0.2
    made: Any = Constrained(lambda t, p: (p - t).square().sum() / 2, Box(0.0, 1.0))
    at = torch.tensor([0.7, -0.2], dtype=torch.float64)
    found = reach(made, at, torch.tensor([0.7, 0.0], dtype=torch.float64))
    assert float(found.distance) == pytest.approx(0.2)
    assert found.direction.tolist() == pytest.approx([0.0, 1.0])
    assert int(found.coordinate) == 1
    with pytest.raises(InputError, match="no active set"):
        reach(made.g, at, at)


def test_reach_takes_numbers_without_dimensions() -> None:
    made: Any = Constrained(lambda t, p: (p - t).square(), Box(-1.0, lambda t: t / 4))
    found = reach(made, torch.tensor(2.0), torch.tensor(0.5))
    # the multiplier is 2 (t - t/4), zero at t = 0
    assert float(found.distance) == pytest.approx(2.0)
    assert float(found.direction) == -1.0


def test_reach_looks_at_the_side_that_is_farther_now() -> None:
    at = torch.zeros((), dtype=torch.float64)
    # the limits of the zero are 0.9, whatever t, and 1.1 + t
    pull: Any = Composite(lambda t, p: p.square() / 2 - (0.1 + t / 2) * p, L1(lambda t: 1 + t / 2))
    found = reach(pull, at, at)
    assert float(found.distance) == pytest.approx(1.1)
    assert float(found.direction) == -1.0
    # the lower bound is 1 below t, whatever t, and the upper one is 2 above
    free: Any = Constrained(lambda t, p: (p - t).square() / 2, Box(lambda t: t - 1, 2.0))
    assert float(reach(free, at, at).distance) == pytest.approx(2.0)


class WithoutFarSides:
    """A condition of one's own, which offers what a condition must and no more."""

    def __init__(self, condition: Any) -> None:
        self.smooth, self.slacks, self.prox = condition.smooth, condition.slacks, condition.prox
        self.entrywise = condition.entrywise
        self._call = condition

    def __call__(self, theta: Any, phi: Any) -> Tensor:
        value: Tensor = self._call(theta, phi)
        return value


def test_reach_needs_no_farther_sides() -> None:
    at = torch.tensor([0.7, -0.2], dtype=torch.float64)
    box: Any = Constrained(lambda t, p: (p - t).square().sum() / 2, Box(0.0, 1.0))
    own: Any = WithoutFarSides(box)
    found = reach(own, at, torch.tensor([0.7, 0.0], dtype=torch.float64))
    assert float(found.distance) == pytest.approx(0.2)
    assert int(found.coordinate) == 1
