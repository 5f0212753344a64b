"""Solvers of roots and fixed points: one table of solvers, batch shapes and precisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hypergrad import Implicit, argmin, errors
from hypergrad.conditions import FixedPoint, Root, Stationary
from hypergrad.solvers import GMRES, Anderson, Broyden, Iteration, NewtonKrylov
from tests.hypergrad.test_roots import BATCHES, THETA, N, equations, inputs, layer, solution, start

SOLVERS: dict[str, Any] = {
    "iteration": Iteration(),
    "damped": Iteration(step_size=0.5),
    "anderson": Anderson(),
    "damped-anderson": Anderson(depth=3, damping=0.5),
    "newton": NewtonKrylov(),
    "newton-gmres": NewtonKrylov(solver=GMRES(rtol=1e-2)),
    "broyden": Broyden(),
    "broyden-3": Broyden(depth=3),
}
MAPS = ("iteration", "damped", "anderson", "damped-anderson")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", SOLVERS)
def test_ends_at_the_solution(name: str, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    theta = inputs(batch, dtype)
    states: list[Any] = [FixedPoint(layer, tasks=len(batch))]
    states += [] if name in MAPS else [Root(equations, tasks=len(batch))]
    for condition in states:
        found = SOLVERS[name].find(condition, theta, start(batch, dtype))
        assert found.converged.tolist() == torch.ones(batch, dtype=torch.bool).tolist()
        # |phi - phi*| <= |F| / (1 - 0.7), |F| <= 1e-6 (|F(0)| + 2 |F(0) - F(0)|), |F(0)| <= sqrt(N)
        scale = 50 if isinstance(condition, Root) else 1
        distance = (found.phi - solution(theta)).norm(dim=-1)
        rounding = 10 * torch.finfo(dtype).eps
        assert (distance <= found.stationarity / scale / 0.3 * (1 + 1e-3) + rounding).all()
        assert (found.stationarity <= 1e-6 * scale * N**0.5).all()


def counted(batch: tuple[int, ...]) -> tuple[list[int], Any]:
    calls = [0]

    def image(theta: Tensor, phi: Tensor) -> Tensor:
        calls[0] += 1
        return layer(theta, phi)

    return calls, FixedPoint(image, tasks=len(batch))


@pytest.mark.parametrize("name", SOLVERS)
def test_each_task_stops_by_itself(name: str) -> None:
    """A task of several ends where it ends alone."""
    theta = inputs((3,))
    condition = FixedPoint(layer, tasks=1)
    together = SOLVERS[name].find(condition, theta, start((3,)))
    for index in range(3):
        alone = SOLVERS[name].find(FixedPoint(layer), theta[index], start(()))
        # the same steps, but for the rounding of batched products, grown by 1/(1 - 0.7)
        assert torch.allclose(together.phi[index], alone.phi, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["anderson", "iteration"])
def test_a_number_of_steps_is_that_many_evaluations(name: str) -> None:
    calls, condition = counted(())
    solver = replace(SOLVERS[name], rtol=0.0, max_steps=7)
    found = solver.find(condition, THETA, start(()))
    assert found.converged is None
    assert found.steps == 7
    assert calls[0] == 8  # the start, and one after each step


@pytest.mark.parametrize("name", SOLVERS)
def test_too_few_steps_are_not_converged(name: str) -> None:
    found = replace(SOLVERS[name], max_steps=1).find(FixedPoint(layer), THETA, start(()))
    assert not bool(found.converged)


@pytest.mark.parametrize("name", ["newton", "broyden"])
def test_no_tolerance_asks_for_round_off(name: str) -> None:
    found = replace(SOLVERS[name], rtol=0.0).find(FixedPoint(layer), THETA, start(()))
    assert bool(found.converged)
    assert found.stationarity < 20 * torch.finfo(torch.float64).eps


def test_anderson_needs_no_contraction_and_is_gmres_on_a_linear_map() -> None:
    """Eigenvalues of T' from -3 to 0.5: iterating diverges; n steps of full depth end it."""
    matrix = torch.diag(torch.tensor([-3.0, -1.0, 0.2, 0.5, -2.0], dtype=torch.float64))
    matrix[0, 3] = 1.0
    condition: Any = FixedPoint(lambda theta, phi: matrix @ phi + theta.sum())
    found = Anderson(depth=N, max_steps=3 * N, rtol=1e-10).find(condition, THETA, start(()))
    assert bool(found.converged)
    assert found.steps <= N + 2  # n in exact arithmetic


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anderson_stalls_for_the_task_whose_map_is_skew_and_for_no_other(dtype: Any) -> None:
    """theory.md, section 13: the second step gains nothing, and rounding gives no direction."""
    drawn = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    A = torch.stack([drawn - drawn.T, 0.5 * torch.eye(4)]).to(dtype)
    b = torch.tensor([[1.0, 0.3, -0.7, 0.1]] * 2, dtype=dtype)
    condition: Any = FixedPoint(lambda theta, phi: phi - (A @ phi[..., None])[..., 0] + b, tasks=1)
    zero = torch.zeros(2, 4, dtype=dtype)
    # few steps: rounding grows by the norm of I - A, here 4, in each, until it counts as a change
    found = Anderson(depth=6, max_steps=4).find(condition, THETA.to(dtype), zero)
    assert found.converged is not None
    assert found.converged.tolist() == [False, True]
    near = 100 * torch.finfo(dtype).eps  # sums of two products, a few steps long
    assert torch.allclose(found.phi[0], b[0], atol=near)  # where the first step led
    assert torch.allclose(found.phi[1], 2 * b[1], atol=1e-5)


def test_newton_leaves_a_singular_start_and_says_where_there_is_no_root() -> None:
    condition: Any = Root(lambda theta, phi: phi.square() - theta.sum().square())
    found = NewtonKrylov().find(condition, THETA, torch.full((2,), 3.0, dtype=torch.float64))
    assert bool(found.converged)
    assert torch.allclose(found.phi.abs(), THETA.sum().abs())
    nowhere: Any = Root(lambda theta, phi: phi.square() + 1 + 0 * theta.sum())
    found = NewtonKrylov().find(nowhere, THETA, torch.full((2,), 3.0, dtype=torch.float64))
    assert not bool(found.converged)


def test_a_saddle_is_found_by_newton_and_differentiated() -> None:
    """``min_x max_y x^2 a/2 - y^2 b/2 + x y - x``: by hand, x = b / (a b + 1)."""

    def game(theta: Tensor, phi: Tensor) -> Tensor:
        x, y = phi
        value: Tensor = theta[0] * x * x / 2 - theta[1] * y * y / 2 + x * y - x
        return value

    theta = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(2, dtype=torch.float64)
    x, y = argmin(Stationary(game), theta, zero, by=NewtonKrylov(), adjoint=Implicit())
    assert torch.allclose(torch.stack([x, y]).detach(), torch.tensor([3.0, 1.0]).double() / 7)
    (got,) = torch.autograd.grad(x, theta)
    # d x / d a = -b^2 / (a b + 1)^2, d x / d b = 1 / (a b + 1)^2
    assert torch.allclose(got, torch.tensor([-9.0, 1.0], dtype=torch.float64) / 49)


@pytest.mark.parametrize("solver", [Iteration, Anderson], ids=lambda kind: kind.__name__)
def test_what_is_kept_for_backward_does_not_grow_with_the_steps(solver: Any) -> None:
    def kept(steps: int) -> int:
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        theta = inputs((3,)).requires_grad_()
        by, condition = solver(max_steps=steps, rtol=0.0), FixedPoint(layer, tasks=1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            phi = argmin(condition, theta, start((3,)), by=by, adjoint=Implicit())
        assert phi.requires_grad
        return sum(sizes)

    assert kept(30) == kept(3) > 0


def test_a_compiled_map_is_found_by_its_values_and_newton_says_why_not() -> None:
    compiled: Any = torch.compile(layer, backend="aot_eager")
    phi = argmin(FixedPoint(compiled), THETA, start(()), by=Anderson(), adjoint=Implicit())
    # as above, for the default tolerance
    assert float((phi - solution(THETA)).norm()) < 1e-6 * N**0.5 / 0.3
    with pytest.raises(errors.InputError, match=r"without a second derivative.*Find phi by And"):
        NewtonKrylov().find(FixedPoint(compiled), THETA, start(()))


def test_broyden_solves_a_linear_system_in_twice_its_unknowns() -> None:
    """Broyden's method ends there in exact arithmetic (Gay 1979); without its updates it does not.

    Three tasks of their own matrices. Of a residual of size 1, rounding leaves far less than 1e-9.
    """
    torch.manual_seed(0)
    matrix = torch.eye(N, dtype=torch.float64) + 0.3 * torch.randn(3, N, N, dtype=torch.float64)
    right = torch.randn(3, N, dtype=torch.float64)

    def linear(theta: Tensor, phi: Tensor) -> Tensor:
        return (matrix @ phi[..., None])[..., 0] - theta

    solver = Broyden(rtol=1e-9, max_steps=2 * N + 1, depth=2 * N + 1)
    found = solver.find(Root(linear, tasks=1), right, torch.zeros(3, N, dtype=torch.float64))
    assert found.converged is not None
    assert found.converged.all()
