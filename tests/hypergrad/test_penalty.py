"""The first-order penalty estimator: its bias is what is derived, no more and no less."""

from __future__ import annotations

import inspect
import itertools
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import Bilevel, Cholesky, GradientDescent, Newton, hypergradient
from hypergrad.errors import InputError
from hypergrad.lower.lbfgs import LBFGS
from hypergrad.theory import penalty
from hypergrad.theory.penalty import penalty_hypergradient
from tests.hypergrad.problems import P, Q, Toy

EPS = torch.finfo(torch.float64).eps
EXACT = Newton(rtol=1e-15, solver=Cholesky())  # below it round-off stops, too
BATCHES = [(), (2, 3)]
STRENGTHS = [1.0, 1e2, 1e5]
SLOPE = 4 / (3 * 3**0.5)  # max |tanh''|


class Family:
    """g = 1/2 phi'A phi - phi'B theta + bend sum logcosh(phi); f = 1/2|W phi - t|^2 + phi'R theta.

    Quadratic for bend = 0. With bend > 0: mu = lam_min(A), rH = bend SLOPE, rJ = 0.
    """

    def __init__(self, batch: tuple[int, ...], bend: float) -> None:
        generator = torch.Generator().manual_seed(11)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        toy = Toy(batch)
        self.a, self.b, self.theta, self.start = toy.a, toy.b, toy.theta, toy.start
        self.bend = bend
        self.w, self.t, self.r = draw(*batch, 3, Q), draw(*batch, 3), draw(*batch, Q, P)
        self.problem = Bilevel(upper=self.upper, lower=self.lower)

    def lower(self, theta: Tensor, phi: Tensor) -> Tensor:
        curved = (phi * (self.a @ phi[..., None])[..., 0]).sum(-1) / 2
        bent: Tensor = torch.log(torch.cosh(phi)).sum(-1)
        return curved - (phi * (self.b @ theta)).sum(-1) + self.bend * bent

    def upper(self, theta: Tensor, phi: Tensor) -> Tensor:
        fit = (self.w @ phi[..., None])[..., 0] - self.t
        return fit.square().sum(-1) / 2 + (phi * (self.r @ theta)).sum(-1)

    def truth(self) -> Tensor:
        phi = EXACT.minimise(self.lower, self.theta, self.start).phi
        return hypergradient(self.problem, self.theta, phi, solver=Cholesky()).grad

    def bound(self, pull: Tensor, strength: float) -> Tensor:
        """The documented bound, of each task."""
        mu = torch.linalg.eigvalsh(self.a)[..., 0]
        s = torch.linalg.matrix_norm(self.b, 2) / mu
        lam22 = torch.linalg.matrix_norm(self.w, 2).square()
        lam12 = torch.linalg.matrix_norm(self.r, 2)
        beta = pull / mu
        curved: Tensor = s * self.bend * SLOPE * beta.square() / 2
        bound: Tensor = ((lam12 + s * lam22) * beta + curved) / strength
        return bound

    def rounding(self, strength: float) -> float:
        """``lambda`` times that of d g/d theta and of both minimisers, carried by L12."""
        size = self.a.norm() + self.b.norm() * self.theta.norm() + self.w.norm() * self.t.norm()
        return float(100 * EPS * (1 + strength) * size * self.b.norm())


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("strength", STRENGTHS, ids=str)
def test_on_quadratics_the_bias_is_the_closed_form(batch: tuple[int, ...], strength: float) -> None:
    family = Family(batch, 0.0)
    found = penalty_hypergradient(
        family.problem, family.theta, family.start, by=EXACT, strength=strength
    )
    # delta = -(lambda A + W'W)^{-1} b, and everything else is linear in it
    a, w, tasks = family.a, family.w, max(1, torch.Size(batch).numel())
    phi = torch.linalg.solve(a, (family.b @ family.theta)[..., None])
    slope = w.mT @ (w @ phi - family.t[..., None]) + (family.r @ family.theta)[..., None]
    delta = -torch.linalg.solve(strength * a + w.mT @ w, slope)
    exact = family.b.mT @ torch.linalg.solve(a, slope) + family.r.mT @ phi
    penalised = family.r.mT @ (phi + delta) - strength * family.b.mT @ delta
    bias = (penalised - exact)[..., 0].reshape(-1, P).sum(0) / tasks
    assert (found.grad - family.truth() - bias).norm() <= family.rounding(strength)
    # and to first order it is -(S' f_phiphi + f_thetaphi) v* / lambda, S = A^{-1}B
    v = torch.linalg.solve(a, slope)
    s = torch.linalg.solve(a, family.b)
    first = -(s.mT @ (w.mT @ (w @ v)) + family.r.mT @ v)[..., 0].reshape(-1, P).sum(0) / tasks
    worst = float(torch.linalg.matrix_norm(w, 2).square().max())  # over mu >= 1: the series' ratio
    assert (strength * bias - first).norm() <= 10 * worst**2 / strength * first.norm()


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("bend", [0.0, 5.0])
@pytest.mark.parametrize("strength", STRENGTHS, ids=str)
def test_the_bias_obeys_its_bound(batch: tuple[int, ...], bend: float, strength: float) -> None:
    family = Family(batch, bend)
    found = penalty_hypergradient(
        family.problem, family.theta, family.start, by=EXACT, strength=strength
    )
    error = (found.grad - family.truth()).norm()
    bound = family.bound(found.pull, strength).mean()
    assert found.pull.shape == batch
    assert error <= bound + family.rounding(strength)
    assert error >= bound / 1000  # the bound says something, and the bias is there
    phi = EXACT.minimise(family.lower, family.theta, family.start).phi
    assert torch.equal(
        found.value, family.upper(family.theta, phi).sum() / max(1, phi[..., 0].numel())
    )


@pytest.mark.parametrize("bend", [0.0, 1.0])
def test_the_bias_halves_when_the_strength_doubles(bend: float) -> None:
    family = Family((3,), bend)
    errors = [
        (
            penalty_hypergradient(
                family.problem, family.theta, family.start, by=EXACT, strength=strength
            ).grad
            - family.truth()
        ).norm()
        for strength in (1e3, 2e3, 4e3)
    ]
    # 1/lambda + O(1/lambda^2), the series' ratio |W|^2/(mu lambda) being below 3e-2 here
    for large, small in itertools.pairwise(errors):
        assert 2 / 1.05 <= large / small <= 2 * 1.05


def mutated(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """The function with one line of its source wrong."""
    inner = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(inner))
    assert source.count(old) == 1
    scope = dict(vars(penalty))
    exec(
        compile(
            "from __future__ import annotations\n" + source.replace(old, new), "planted", "exec"
        ),
        scope,
    )
    found: Callable[..., Any] = scope[inner.__name__]
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(high - low)", "(low - high)"),
        ("strength * (high", "(high"),
        ("part + strength", "strength"),
        ("problem.upper, theta, pulled.phi", "problem.upper, theta, minimum.phi"),
        ("by.minimise(penalised, theta, minimum.phi)", "minimum"),
        (") / strength\n", ") * strength\n"),
        (") / tasks\n        for", ")\n        for"),
    ],
)
def test_planted_bugs_break_the_bound(old: str, new: str) -> None:
    family, strength = Family((3,), 1.0), 1e3
    wrong = mutated(penalty_hypergradient, old, new)
    found = wrong(family.problem, family.theta, family.start, by=EXACT, strength=strength)
    right = penalty_hypergradient(
        family.problem, family.theta, family.start, by=EXACT, strength=strength
    )
    # d_theta f at y* instead of y_lambda is within the bound, but not the gradient of F_lambda
    if "minimum.phi" in new:
        assert (found.grad - right.grad).norm() > 1e3 * family.rounding(1.0)
        return
    error = (found.grad - family.truth()).norm()
    assert error > family.bound(right.pull, strength).mean() + family.rounding(strength)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_it_is_the_gradient_of_the_penalised_value(batch: tuple[int, ...]) -> None:
    family, strength = Family(batch, 1.0), 10.0

    def value(theta: Tensor) -> Tensor:
        found = penalty_hypergradient(
            family.problem, theta, family.start, by=EXACT, strength=strength
        )
        low, high = found.minimum.phi, found.pulled.phi
        gap = family.lower(theta, high) - family.lower(theta, low)
        return (family.upper(theta, high) + strength * gap).mean()

    found = penalty_hypergradient(
        family.problem, family.theta, family.start, by=EXACT, strength=strength
    )
    h = EPS ** (1 / 3)
    for axis in torch.eye(P, dtype=torch.float64)[:2]:
        slope = (value(family.theta + h * axis) - value(family.theta - h * axis)) / (2 * h)
        # h^2 of third derivatives and u/h of values, both of some hundreds at most
        assert abs(slope - found.grad @ axis) <= 1e3 * h**2


class OnlyOnce(torch.autograd.Function):
    """tanh, without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return cotangent * (1 - torch.tanh(x).square())


@pytest.mark.parametrize(
    "by", [LBFGS(rtol=1e-13), GradientDescent(max_steps=2000, step_size=0.1, rtol=1e-13)], ids=str
)
def test_no_second_derivative_is_taken(by: LBFGS | GradientDescent) -> None:
    toy = Toy((3,))
    tanh: Callable[[Tensor], Tensor] = OnlyOnce.apply

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return tanh(phi).sum(-1)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        off: Tensor = phi - tanh(toy.b @ theta)
        return off.square().sum(-1)

    problem = Bilevel(upper=upper, lower=lower)
    found = penalty_hypergradient(problem, toy.theta, toy.start, by=by, strength=1e4)
    assert found.minimum.converged is not None
    assert found.minimum.converged.all()
    theta = toy.theta.clone().requires_grad_()
    torch.tanh(torch.tanh(toy.b @ theta)).sum(-1).mean().backward()
    assert theta.grad is not None
    # S = dtarget/dtheta, mu = 2, |f'| <= sqrt(Q), |f''| <= SLOPE, rH = rJ = 0; the solves err by
    # 1e-13 of gradients below 10, which lambda L12 = 2 |S| lambda carries here
    s = float(torch.linalg.matrix_norm(toy.b, 2).max())
    assert (found.grad - theta.grad).norm() <= s * SLOPE * Q**0.5 / 2 / 1e4 + 1e4 * 2 * s * 1e-12


def test_trees() -> None:
    family = Family((3,), 1.0)

    def split(problem: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def wrapped(theta: dict[str, Tensor], phi: dict[str, Tensor]) -> Tensor:
            return problem(theta["t"], torch.cat([phi["a"], phi["b"]], dim=-1))

        return wrapped

    problem = Bilevel(upper=split(family.upper), lower=split(family.lower))
    start = {"a": family.start[..., :2], "b": family.start[..., 2:]}
    found = penalty_hypergradient(problem, {"t": family.theta}, start, by=EXACT, strength=10.0)
    plain = penalty_hypergradient(
        family.problem, family.theta, family.start, by=EXACT, strength=10.0
    )
    assert torch.allclose(found.grad["t"], plain.grad, rtol=1e-12)
    assert not found.grad["t"].requires_grad


def test_nonsense_is_refused() -> None:
    family = Family((3,), 1.0)
    with pytest.raises(InputError, match="strength=0.0"):
        penalty_hypergradient(family.problem, family.theta, family.start, by=EXACT, strength=0.0)
    problem = Bilevel(upper=family.upper, lower=lambda theta, phi: phi.square().sum(-1))
    with pytest.raises(InputError, match="does not depend on theta"):
        penalty_hypergradient(problem, family.theta, family.start, by=EXACT, strength=1.0)
