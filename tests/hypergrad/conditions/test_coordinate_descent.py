"""Coordinate descent: exact and independent solutions, both losses, any separable tree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from hypergrad import Bilevel, Implicit, argmin, hypergradient
from hypergrad.conditions import (
    L1,
    Box,
    Composite,
    Constrained,
    ElasticNet,
    GroupL2,
    NonNegative,
    Simplex,
)
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.linear import cholesky
from hypergrad.lower import coordinate_descent
from hypergrad.solvers import CoordinateDescent, ProximalGradient

D = torch.float64
EXAMPLES, N = 30, 6


class Data:
    """Features and signs of tasks; both losses."""

    def __init__(self, batch: tuple[int, ...] = (), dtype: torch.dtype = D, n: int = N) -> None:
        draw = torch.Generator().manual_seed(len(batch))
        self.x = torch.randn(*batch, EXAMPLES, n, generator=draw, dtype=D).to(dtype)
        noise = torch.randn(*batch, EXAMPLES, generator=draw, dtype=D).to(dtype)
        self.y = (self.x[..., 0] - self.x[..., 1] + noise).sign()
        self.start = torch.zeros(*batch, n, dtype=dtype)

    def scores(self, phi: Tensor) -> Tensor:
        return (self.x @ phi[..., None])[..., 0]

    def squares(self, theta: Tensor, phi: Tensor) -> Tensor:
        return (self.scores(phi) - self.y - theta).square().mean(-1) / 2

    def logistic(self, theta: Tensor, phi: Tensor) -> Tensor:
        return softplus(-self.y * self.scores(phi) + theta).mean(-1)


WEIGHTS = torch.linspace(0.5, 1.5, N, dtype=D)
PARTS: dict[str, Any] = {
    "l1": L1(0.05),
    "weighted l1 of theta": L1(lambda t: 0.05 * t.exp() * WEIGHTS.to(t.dtype)),
    "elastic net": ElasticNet(0.03, lambda t: 0.1 + t.square()),
    "box": Box(-0.2, lambda t: 0.1 * t.exp()),
    "non-negative": NonNegative(),
}


def made(g: Any, part: Any) -> Any:
    return Constrained(g, part) if isinstance(part, Box | NonNegative) else Composite(g, part)


@pytest.mark.parametrize(
    ("loss", "batch", "dtype"),
    [
        ("squares", (), D),
        ("logistic", (2, 2), D),
        ("logistic", (), torch.float32),
        ("squares", (3,), torch.float32),
    ],
)
@pytest.mark.parametrize("name", PARTS)
def test_a_solution_is_the_proximal_gradient_s_and_so_is_its_derivative(
    name: str, loss: str, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    data = Data(batch, dtype)
    condition, theta = made(getattr(data, loss), PARTS[name]), torch.tensor(0.1, dtype=dtype)
    rtol = 100 * torch.finfo(dtype).eps
    found = CoordinateDescent(rtol=rtol).minimise(condition, theta, data.start)
    other = ProximalGradient(rtol=rtol).minimise(condition, theta, data.start)
    assert found.converged is not None
    assert bool(found.converged.all())
    assert found.phi.dtype == dtype
    # both leave a subgradient of rtol times the terms, of norm one or less; mu is 0.02 or more
    close = 2 * rtol / 0.02
    assert float((found.phi - other.phi).abs().max()) <= close
    assert torch.equal(found.phi == 0, other.phi == 0)
    problem: Any = Bilevel(upper=lambda t, p: p.square().sum(-1), lower=condition)
    grads = [hypergradient(problem, theta, one.phi) for one in (found, other)]
    assert dtype != D or bool(grads[0].certificate.solved.all())
    # a derivative of norm 10 or less, of a third derivative of the same size
    assert torch.allclose(grads[0].grad, grads[1].grad, rtol=0.0, atol=100 * close)


def test_solutions_are_scikit_learn_s() -> None:
    linear: Any = pytest.importorskip("sklearn.linear_model")
    data = Data()
    x, y, zero = data.x.numpy(), data.y.numpy(), torch.zeros((), dtype=D)
    by = CoordinateDescent(rtol=1e-12)
    net = linear.ElasticNet(alpha=0.1, l1_ratio=0.7, fit_intercept=False, tol=1e-14)
    mine = by.minimise(Composite(data.squares, ElasticNet(0.07, 0.03)), zero, data.start)
    assert torch.allclose(mine.phi, torch.tensor(net.fit(x, y).coef_), rtol=0.0, atol=1e-9)
    # its objective is the sum of losses times C, plus |phi|_1
    fit = linear.LogisticRegression(
        C=1 / (EXAMPLES * 0.05),
        l1_ratio=1.0,
        fit_intercept=False,
        solver="saga",
        tol=1e-12,
        max_iter=100_000,
    )
    mine = by.minimise(Composite(data.logistic, L1(0.05)), zero, data.start)
    theirs = torch.tensor(fit.fit(x, y).coef_[0])
    assert 0 < int((mine.phi == 0).sum()) < N
    assert torch.allclose(mine.phi, theirs, rtol=0.0, atol=1e-8)


def test_each_leaf_is_held_by_its_own_part_and_may_be_empty() -> None:
    target = torch.tensor([[2.0, -0.1], [-3.0, 0.05]], dtype=D)

    def g(t: Tensor, p: dict[str, Tensor]) -> Tensor:
        terms = [(leaf - t * target).square().sum(-1) / 2 for leaf in (p["l1"], p["box"], p["no"])]
        return terms[0] + terms[1] + terms[2] + p["none"].sum(-1)

    start = {name: torch.zeros(2, 2, dtype=D) for name in ("l1", "box", "no")}
    start["none"] = torch.zeros(2, 0, dtype=D)
    plus = {"l1": L1(0.5), "box": Box(0.0, 1.0), "no": None, "none": L1(1.0)}
    one = torch.ones((), dtype=D)
    phi: Any = CoordinateDescent(rtol=1e-14).minimise(Composite(g, plus), one, start).phi
    assert torch.allclose(phi["l1"], torch.tensor([[1.5, 0.0], [-2.5, 0.0]], dtype=D))
    assert phi["box"].tolist() == [[1.0, 0.0], [0.0, 0.05]]
    assert torch.allclose(phi["no"], target)
    assert phi["none"].shape == (2, 0)


def test_columns_are_formed_of_entries_that_move_only(monkeypatch: pytest.MonkeyPatch) -> None:
    formed: list[list[int]] = []
    dense = cholesky.dense

    def counted(*given: Any, only: list[int]) -> Tensor:
        formed.append(only)
        return dense(*given, only=only)

    monkeypatch.setattr(coordinate_descent, "dense", counted)
    data = Data(n=40)
    by, zero = CoordinateDescent(rtol=1e-10), torch.zeros((), dtype=D)
    phi = by.minimise(Composite(data.squares, L1(0.3)), zero, data.start).phi
    columns = [index for some in formed for index in some]
    assert len(columns) == len(set(columns))  # of a quadratic they are formed once
    assert set(phi.nonzero().flatten().tolist()) <= set(columns)
    assert len(columns) <= 10


def test_a_task_does_not_depend_on_its_company_and_a_done_one_stays() -> None:
    data = Data((3,))
    condition: Any = Composite(data.squares, L1(0.05))
    by, zero = CoordinateDescent(rtol=1e-9), torch.zeros((), dtype=D)
    together = by.minimise(condition, zero, data.start)
    start = data.start.clone()
    start[1] = together.phi[1]
    again = by.minimise(condition, zero, start)
    assert torch.equal(again.phi[1], together.phi[1])
    assert bool((again.phi[0] - together.phi[0]).abs().max() <= 1e-9 / 0.02)


def test_a_step_that_is_too_long_is_halved() -> None:
    # Newton's steps for log(1 + e^x) + log(1 + e^-x) from |x| > 2.2 go ever farther
    def g(t: Tensor, p: Tensor) -> Tensor:
        return (softplus(p - t) + softplus(t - p)).sum(-1)

    start, zero = torch.tensor([[4.0], [-6.0], [1.0]], dtype=D), torch.zeros((), dtype=D)
    found = CoordinateDescent(rtol=1e-10).minimise(Composite(g, L1(0.1)), zero, start)
    assert found.converged is not None
    assert bool(found.converged.all())
    assert found.phi.tolist() == [[0.0]] * 3


def test_a_linear_objective_ends_at_its_bounds_and_diverges_typed_without() -> None:
    cost, start = torch.tensor([3.0, -1.0], dtype=D), torch.tensor([0.5, 0.5], dtype=D)
    by: Any = CoordinateDescent()
    linear: Any = Constrained(lambda t, p: (t * p).sum(-1), Box(0.0, 1.0))
    assert by.minimise(linear, cost, start).phi.tolist() == [0.0, 1.0]
    found = by.minimise(Composite(lambda t, p: (t * p).sum(-1), L1(2.0)), cost, start)
    assert not bool(found.converged)


def test_steps_are_sweeps_and_a_budget_ends_them() -> None:
    data, zero = Data((2,)), torch.zeros((), dtype=D)
    condition: Any = Composite(data.squares, L1(0.01))
    found = CoordinateDescent(rtol=1e-12, max_steps=2).minimise(condition, zero, data.start)
    assert found.steps == 2
    assert found.converged is not None
    assert not bool(found.converged.any())
    none: Any = CoordinateDescent(max_steps=0).minimise(
        Constrained(data.squares, Box(0.1, 1.0)), zero, data.start
    )
    assert none.phi.tolist() == torch.full((2, N), 0.1, dtype=D).tolist()
    # without a tolerance to rounding
    exact = CoordinateDescent(rtol=0.0).minimise(condition, zero, data.start)
    assert exact.converged is not None
    assert bool(exact.converged.all())
    assert float(exact.stationarity.max()) <= 100 * torch.finfo(D).eps
    empty: Any = Composite(lambda t, p: (p - t).square().sum(-1), L1(0.1))
    assert CoordinateDescent().minimise(empty, zero, torch.zeros(0, 3, dtype=D)).phi.shape == (0, 3)


@pytest.mark.parametrize("part", [Simplex(), GroupL2(0.1), {"a": L1(0.1), "b": Simplex()}])
def test_what_ties_entries_together_is_refused_by_name(part: Any) -> None:
    start = torch.ones(2, 3, dtype=D)
    phi: Any = {"a": start, "b": start} if isinstance(part, dict) else start

    def g(t: Tensor, p: Any) -> Tensor:
        both = p["a"] + p["b"] if isinstance(p, dict) else p
        values: Tensor = (both - t).square().sum((-2, -1))
        return values

    condition: Any = made(g, part) if not isinstance(part, Simplex) else Constrained(g, part)
    zero = torch.zeros((), dtype=D)
    with pytest.raises(InputError, match=r"entrywise.*ProximalGradient"):
        argmin(condition, zero, phi, by=CoordinateDescent(), adjoint=Implicit())


def test_smooth_and_non_convex_objectives_are_refused() -> None:
    one = torch.ones(3, dtype=D)

    def smooth(t: Tensor, p: Tensor) -> Tensor:
        values: Tensor = (p - t).square().sum(-1)
        return values

    with pytest.raises(InputError, match=r"CoordinateDescent minimises .*LBFGS.*ProximalGradient"):
        argmin(smooth, one, one, by=CoordinateDescent(), adjoint=Implicit())
    bent: Any = Composite(lambda t, p: (t - p.square()).sum(-1), L1(0.1))
    with pytest.raises(InputError, match=r"curvature -2\.0e\+00 along entry 0.*convex"):
        CoordinateDescent().minimise(bent, one, one)
    sharp: Any = Composite(lambda t, p: (t * p.square().log()).sum(-1), L1(0.1))
    with pytest.raises(NotFiniteError):
        CoordinateDescent().minimise(sharp, one, torch.zeros(3, dtype=D))
    with pytest.raises(InputError, match="max_steps"):
        CoordinateDescent(max_steps=-1)
