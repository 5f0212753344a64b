"""The solver: steps, stopping task by task, starts and step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import Cholesky, Solution, attach
from hypergrad.conditions import L1, Box, Composite, Constrained, Simplex
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.solvers import ProximalGradient

D = torch.float64
# eigenvalues from 1/100 to 1, in two tasks of different scale
SCALES = torch.tensor([[1.0], [1e4]], dtype=D)
EIGENVALUES = torch.logspace(-2, 0, 20, dtype=D)


def quadratic(t: Tensor, p: Tensor) -> Tensor:
    return (SCALES * EIGENVALUES * (p - t).square()).sum(-1) / 2


LASSO: Any = Composite(quadratic, L1(0.1 * SCALES))
T = torch.linspace(-2.0, 2.0, 20, dtype=D)
# the minimiser of each entry by itself
EXACT = (T.sign() * (T.abs() - 0.1 / EIGENVALUES).clamp(min=0.0)).expand(2, 20)


def test_each_task_meets_its_tolerance_and_supports_are_exact() -> None:
    for rtol in (1e-3, 1e-6, 1e-12):
        found = ProximalGradient(rtol=rtol).minimise(LASSO, T, torch.zeros(2, 20, dtype=D))
        assert found.converged is not None
        assert bool(found.converged.all())
        # |phi - phi*| <= |least subgradient|/mu, and that is at most rtol times the terms
        terms = (EIGENVALUES * T).norm() * SCALES[:, 0]
        assert bool((found.stationarity <= rtol * terms).all())
        off = (found.phi - EXACT).norm(dim=-1)
        assert bool((off <= rtol * terms / (SCALES[:, 0] * EIGENVALUES[0])).all())
    assert torch.equal(found.phi == 0, EXACT == 0)


def test_acceleration_pays() -> None:
    # plain steps shrink the error by 1 - 1/kappa each: 1e-6 takes 100 ln 1e6 = 1400
    by = ProximalGradient(rtol=1e-6, newton_after=None)
    found = by.minimise(LASSO, T, torch.zeros(2, 20, dtype=D))
    assert found.steps < 400


@dataclass(frozen=True)
class Recorded:
    """What a solver gives, changed by a function of the number of the solve."""

    change: Callable[[Tensor], Tensor]
    solves: list[Tensor] = field(default_factory=list)

    def solve(self, apply: Any, rhs: Tensor, start: Tensor | None = None) -> Solution:
        found = Cholesky().solve(apply, rhs, start)
        self.solves.append(found.x)
        return replace(found, x=self.change(found.x))


def test_newton_steps_end_what_proximal_steps_would_take_hundreds_for() -> None:
    made: Any = Constrained(quadratic, Box(-1.0, 1.0))
    start, exact = torch.zeros(2, 20, dtype=D), T.clamp(-1.0, 1.0)
    without = ProximalGradient(rtol=1e-12, newton_after=None).minimise(made, T, start)
    solver = Recorded(lambda x: x)
    found = ProximalGradient(rtol=1e-12, solver=solver).minimise(made, T, start)
    assert without.steps > 150
    assert found.steps <= 60
    assert len(solver.solves) <= found.steps // 10
    # g is quadratic: on the right manifold a step is exact, but for eps kappa
    assert float((found.phi - exact).abs().max()) <= 100 * torch.finfo(D).eps * 2
    assert torch.equal(found.phi.abs() == 1, exact.expand(2, 20).abs() == 1)


@pytest.mark.parametrize("change", [torch.neg, torch.zeros_like, lambda x: x * torch.nan])
def test_newton_steps_that_do_not_halve_the_proximal_step_are_not_taken(change: Any) -> None:
    start, solver = torch.zeros(2, 20, dtype=D), Recorded(change)
    made: Any = Constrained(quadratic, Box(-1.0, 1.0))
    without = ProximalGradient(rtol=1e-6, newton_after=None).minimise(made, T, start)
    found = ProximalGradient(rtol=1e-6, solver=solver).minimise(made, T, start)
    assert found.steps == without.steps
    assert torch.equal(found.phi, without.phi)
    # tried after 10, 30, 70, ... steps: twice as many each time
    assert [10 * (2**i - 1) for i in range(1, 9)][len(solver.solves) - 1] < found.steps


def test_a_large_level_takes_newton_steps_by_conjugate_gradients() -> None:
    def flat(t: Tensor, p: Tensor) -> Tensor:
        return (torch.logspace(-2, 0, 200, dtype=D) * (p - t).square()).sum(-1) / 2

    made: Any = Constrained(flat, Box(-1.0, 1.0))
    t = torch.linspace(-2.0, 2.0, 200, dtype=D)
    steps = []
    for after in (None, 10):
        by = ProximalGradient(rtol=1e-10, newton_after=after)
        found = by.minimise(made, t, torch.zeros(200, dtype=D))
        assert torch.allclose(found.phi, t.clamp(-1.0, 1.0), rtol=0.0, atol=1e-7)
        steps.append(found.steps)
    assert 2 * steps[1] < steps[0]


def test_a_task_does_not_depend_on_its_company() -> None:
    both = ProximalGradient(rtol=1e-6).minimise(LASSO, T, torch.zeros(2, 20, dtype=D)).phi

    def alone(t: Tensor, p: Tensor) -> Tensor:
        return (EIGENVALUES * (p - t).square()).sum(-1) / 2

    made: Any = Composite(alone, L1(0.1))
    one = ProximalGradient(rtol=1e-6).minimise(made, T, torch.zeros(20, dtype=D)).phi
    assert torch.allclose(both[0], one, rtol=1e-9, atol=1e-12)


def test_a_given_number_of_steps_is_taken_and_says_nothing_of_convergence() -> None:
    made, start = Constrained(quadratic, Box(-1.0, 1.0)), torch.full((2, 20), 7.0, dtype=D)
    found: Any = ProximalGradient(rtol=0.0, max_steps=5).minimise(made, T, start)
    assert (found.steps, found.converged) == (5, None)
    none: Any = ProximalGradient(max_steps=0).minimise(made, T, start)
    assert none.phi.tolist() == torch.ones(2, 20, dtype=D).tolist()  # projected
    assert not bool(none.converged.any())


def test_a_step_size_that_is_too_long_diverges_typed_and_an_estimate_recovers() -> None:
    def steep(t: Tensor, p: Tensor) -> Tensor:
        return ((p - t).pow(4).sum(-1)) / 4  # flat at the minimum, steep far off

    start, t = torch.tensor([0.1, 9.0], dtype=D), torch.zeros(2, dtype=D)
    made: Any = Constrained(steep, Box(-100.0))
    with pytest.raises(NotFiniteError):
        ProximalGradient(step_size=10.0, rtol=1e-6).minimise(made, t, start)
    found = ProximalGradient(rtol=1e-6, max_steps=2000).minimise(made, t, start)
    assert found.converged is not None
    assert bool(found.converged)


def test_a_linear_objective_ends_in_a_vertex() -> None:
    made: Any = Constrained(lambda t, p: (t * p).sum(-1), Simplex())
    cost = torch.tensor([3.0, 1.0, 2.0], dtype=D)
    found = ProximalGradient().minimise(made, cost, torch.zeros(3, dtype=D))
    assert found.phi.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("kinds", [(torch.bfloat16,) * 2, (torch.float32, torch.float64)])
def test_leaves_keep_their_dtypes_under_a_penalty(kinds: tuple[torch.dtype, torch.dtype]) -> None:
    start = {name: torch.zeros(2, 3, dtype=kind) for name, kind in zip("ab", kinds, strict=True)}

    def lower(t: Tensor, p: dict[str, Tensor]) -> Tensor:
        return (t * ((p["a"] - 1).square() + (p["b"] - 1).square()).sum(-1)) / 2

    made: Any = Composite(lower, L1(0.25))
    phi: Any = ProximalGradient(rtol=1e-2).minimise(made, torch.ones((), dtype=kinds[1]), start).phi
    for name, kind in zip("ab", kinds, strict=True):
        assert phi[name].dtype == kind
        # the tolerance, and a rounding of the leaf
        assert float((phi[name].double() - 0.75).abs().max()) <= 0.02 + torch.finfo(kind).eps


def test_no_tasks() -> None:
    made: Any = Constrained(lambda t, p: (p - t).square().sum(-1), Box(0.0, 1.0))
    found = ProximalGradient().minimise(made, torch.ones(3, dtype=D), torch.zeros(0, 3, dtype=D))
    assert found.phi.shape == (0, 3)


class OnceOnly(torch.autograd.Function):
    """x^2/2 with a backward that can't be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square() / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = cotangent * x
        return slope


def test_a_g_that_is_differentiable_once_is_told_what_serves_it() -> None:
    once: Callable[[Tensor], Tensor] = OnceOnly.apply
    made: Any = Composite(lambda t, p: once(p - t).sum(-1), L1(0.5))
    start = torch.zeros(20, dtype=D)
    message = r"OnceOnly.*ProximalGradient\(step_size=\.\.\., newton_after=None\)"
    for by in (ProximalGradient(), ProximalGradient(step_size=0.5)):
        with pytest.raises(InputError, match=message):
            by.minimise(made, T, start)
    by = ProximalGradient(step_size=0.5, newton_after=None, rtol=1e-12)
    found = by.minimise(made, T, start).phi
    assert torch.allclose(found, T.sign() * (T.abs() - 0.5).clamp(min=0.0), atol=1e-10)
    with pytest.raises(InputError, match=message):
        attach(made, T.clone().requires_grad_(), found).sum().backward()


def test_newton_goes_on_at_once_where_all_tasks_took_a_step() -> None:
    def bent(t: Tensor, p: Tensor) -> Tensor:
        apart = p - t
        return ((EIGENVALUES * apart.square()).sum(-1) + (apart.exp() - apart).sum(-1) / 25) / 2

    made: Any = Composite(bent, L1(torch.tensor([[0.1], [0.2]], dtype=D)))
    by = ProximalGradient(rtol=1e-12, newton_after=20)
    found = by.minimise(made, T, torch.zeros(2, 20, dtype=D))
    assert bool(found.converged.all())  # type: ignore[union-attr]
    assert found.steps < 30  # not another twenty proximal steps
