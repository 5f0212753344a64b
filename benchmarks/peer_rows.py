"""The rows of benchmarks/peers.py beyond one hypergradient at a minimiser.

Many tasks at once, a fixed point, a lower solve alone, and a whole loop of upper steps. As in
peer_cases.py the exact answers are dense linear algebra, without hypergrad and without autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import peer_jax
from benchmarks.peer_cases import CASES, CONDITION, Softmax
from benchmarks.peer_entries import RTOL, STEPS, Method, Row, peer
from benchmarks.peer_methods import methods
from benchmarks.provenance import SEED
from hypergrad import CG, LBFGS, Bilevel, Cholesky, LinearSolver, Newton, hypergradient
from hypergrad.conditions import FixedPoint
from hypergrad.solvers import GMRES, LU, BiCGStab

GOAL = 1e-6  # |d g/d phi| of a lower solve
UPPER_STEPS = 50
RATE = 1.0  # of the upper steps


def at_minimiser(name: str) -> Row:
    """One hypergradient, at the minimiser that every method is given."""
    case = CASES[name]()
    return Row(
        name=case.name,
        about={"condition": case.largest / case.smallest, "stationarity": case.stationarity},
        error=case.error,
        methods=lambda: methods(case),
    )


def tasks(count: int, size: int) -> Row:
    """``g_i = phi'A_i phi / 2 - phi'(s_i theta)``, ``f_i = |phi - target_i|^2 / 2``, one theta."""
    draw = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    basis, _ = torch.linalg.qr(normal(count, size, size))
    spectrum = torch.logspace(0, -torch.tensor(CONDITION).log10(), size, dtype=torch.float64)
    matrix = (basis * spectrum) @ basis.mT
    matrix = (matrix + matrix.mT) / 2
    theta, scale, target = normal(size), normal(count, size), normal(count, size)
    factor = torch.linalg.cholesky(matrix)

    def solve(rhs: Tensor) -> Tensor:
        return torch.cholesky_solve(rhs[..., None], factor)[..., 0]

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        bent: Tensor = (phi * (matrix @ phi[..., None])[..., 0]).sum(-1) / 2
        return bent - (phi * scale * theta).sum(-1)

    def upper(theta: Tensor, phi: Tensor) -> Tensor:
        return (phi - target).square().sum(-1) / 2

    phi = solve(scale * theta)
    exact = (scale * solve(phi - target)).mean(0)
    problem: Bilevel[Tensor, Tensor] = Bilevel(upper=upper, lower=lower)

    def choices() -> Iterator[Method]:
        yield from _functional(
            problem,
            theta,
            phi,
            {"CG": CG(rtol=RTOL), "default solver": None, "Cholesky": Cholesky()},
        )
        yield from _torchopt(problem, theta, phi, "solve_cg", count=count)
        arrays = (matrix, scale, target)
        yield from peer_jax.for_tasks("scaled quadratic", theta, phi, arrays)

    return Row(
        name=f"{count} tasks, d = {size}",
        about={"condition": CONDITION},
        error=_relative_to(exact),
        methods=choices,
    )


def fixed_point(size: int) -> Row:
    """``phi = tanh(W phi + theta)`` with ``|W| = 0.9``, ``f = |phi - target|^2 / 2``."""
    draw = torch.Generator().manual_seed(SEED)
    weights = torch.randn(size, size, generator=draw, dtype=torch.float64)
    weights = 0.9 * weights / torch.linalg.matrix_norm(weights, ord=2)
    theta = torch.randn(size, generator=draw, dtype=torch.float64)
    target = torch.randn(size, generator=draw, dtype=torch.float64)
    phi = torch.zeros_like(theta)
    for _ in range(500):  # 0.9^500 is below the precision
        phi = torch.tanh(weights @ phi + theta)
    slope = 1 - phi.square()
    transposed = torch.eye(size, dtype=torch.float64) - (slope[:, None] * weights).mT
    exact = slope * torch.linalg.solve(transposed, phi - target)

    def map_(theta: Tensor, phi: Tensor) -> Tensor:
        return torch.tanh(weights @ phi + theta)

    condition: FixedPoint[Tensor, Tensor] = FixedPoint(map_)
    problem: Bilevel[Tensor, Tensor] = Bilevel(
        upper=lambda theta, phi: (phi - target).square().sum() / 2, lower=condition
    )

    def choices() -> Iterator[Method]:
        solvers: dict[str, LinearSolver | None] = {
            "GMRES": GMRES(rtol=RTOL),
            "default solver": None,
            "BiCGStab": BiCGStab(rtol=RTOL),
            "LU": LU(),
        }
        yield from _functional(problem, theta, phi, solvers)
        yield from _torchopt(problem, theta, phi, "solve_normal_cg", map_=map_)
        yield from peer_jax.at_fixed_point(theta, phi, weights, target)

    return Row(
        name=f"fixed point, d = {size}",
        about={"norm of W": 0.9},
        error=_relative_to(exact),
        methods=choices,
    )


def fit(examples: int, size: int, classes: int) -> Row:
    """The lower solve alone: softmax regression with one L2 strength, from zero, by L-BFGS."""
    problem, _ = Softmax.drawn(examples, size, classes)
    l2 = 0.02
    theta = torch.full((size,), l2, dtype=torch.float64).log()
    start = torch.zeros(classes, size, dtype=torch.float64)

    def choices() -> Iterator[Method]:
        ours = {
            "LBFGS": LBFGS(rtol=0.0, atol=GOAL, max_steps=STEPS),
            "Newton": Newton(rtol=0.0, atol=GOAL),
        }
        for name, by in ours.items():

            def run(by: Any = by) -> Tensor:
                found: Tensor = by.minimise(problem.lower, theta, start).phi
                return found

            yield Method(package="hypergrad", how=name, run=run)
        if peer("scipy.optimize") is not None:
            yield Method(
                package="scipy",
                how="minimize, L-BFGS-B of a written gradient",
                run=lambda: _by_scipy(problem, theta, start),
                read=torch.from_numpy,
            )
        if peer("sklearn.linear_model") is not None:
            yield _by_sklearn(problem, l2)
        arrays = (problem.x, problem.y, problem.x_held, problem.y_held)
        yield from peer_jax.fitted(arrays, start, l2, GOAL)

    return Row(
        name=f"fit alone, n = {examples}, d = {size}, {classes} classes",
        about={"gradient_norm": GOAL},
        error=_relative_to(problem.minimiser(theta)),
        methods=choices,
    )


def loop(examples: int, size: int, classes: int) -> Row:
    """Upper steps on one L2 strength for each feature, each from the last minimiser and v."""
    problem, first = Softmax.drawn(examples, size, classes)
    start = torch.zeros(classes, size, dtype=torch.float64)
    theta = first
    for _ in range(UPPER_STEPS):
        phi = problem.minimiser(theta)
        v = problem.inverse_at(theta, phi)(problem.upper_gradient(phi).reshape(-1))
        theta = theta - RATE * problem.pull(theta, phi, v)
    moved = theta - first
    bilevel: Bilevel[Tensor, Tensor] = Bilevel(upper=problem.upper, lower=problem.lower)
    by = LBFGS(rtol=0.0, atol=GOAL, max_steps=STEPS)

    def descend(fit: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        theta, phi, v = first, start, None
        for _ in range(UPPER_STEPS):
            phi = fit(theta, phi)
            found = hypergradient(bilevel, theta, phi, solver=CG(rtol=RTOL), start=v)
            v = found.certificate.adjoint.x.view_as(phi)
            theta = theta - RATE * found.grad
        return theta

    def choices() -> Iterator[Method]:
        yield Method(
            package="hypergrad",
            how="LBFGS, CG",
            run=lambda: descend(lambda theta, phi: by.minimise(problem.lower, theta, phi).phi),
        )
        if peer("scipy.optimize") is not None:
            yield Method(
                package="hypergrad",
                how="SciPy's L-BFGS-B of a written gradient, CG",
                run=lambda: descend(
                    lambda theta, phi: torch.from_numpy(_by_scipy(problem, theta, phi))
                ),
            )
        arrays = (problem.x, problem.y, problem.x_held, problem.y_held)
        yield from peer_jax.upper_steps(
            arrays, first, start, steps=UPPER_STEPS, rate=RATE, goal=GOAL
        )

    return Row(
        name=f"{UPPER_STEPS} upper steps, n = {examples}, d = {size}, {classes} classes",
        about={"gradient_norm": GOAL, "rate": RATE},
        error=lambda found: float((found - theta).norm() / moved.norm()),
        methods=choices,
    )


ROWS: dict[str, Callable[[], Row]] = {
    **{name: lambda name=name: at_minimiser(name) for name in CASES},  # type: ignore[misc]
    "tasks-256": lambda: tasks(256, 50),
    "tasks-4096": lambda: tasks(4096, 8),
    "fixed-point": lambda: fixed_point(200),
    "fit": lambda: fit(300, 60, 10),
    "loop": lambda: loop(300, 60, 10),
}


def _functional(
    problem: Bilevel[Tensor, Tensor],
    theta: Tensor,
    phi: Tensor,
    solvers: dict[str, LinearSolver | None],
) -> Iterator[Method]:
    for name, solver in solvers.items():

        def run(solver: LinearSolver | None = solver) -> Tensor:
            return hypergradient(problem, theta, phi, solver=solver).grad

        yield Method(package="hypergrad", how=f"hypergradient, {name}", run=run)


def _torchopt(
    problem: Bilevel[Tensor, Tensor],
    theta: Tensor,
    phi: Tensor,
    solver: str,
    *,
    count: int = 1,
    map_: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[Method]:
    """``custom_root``; tasks are one system to it."""
    torchopt = peer("torchopt")
    if torchopt is None:
        return

    def residual(phi: Tensor, theta: Tensor) -> Tensor:
        if map_ is not None:
            return phi - map_(theta, phi)
        slope: Tensor = torch.func.grad(lambda point: problem.lower(theta, point).sum())(phi)
        return slope

    solve = getattr(torchopt.linear_solve, solver)(rtol=RTOL, maxiter=STEPS)

    @torchopt.diff.implicit.custom_root(residual, argnums=1, solve=solve)  # type: ignore[untyped-decorator]
    def finished(phi: Tensor, theta: Tensor) -> Tensor:
        return phi

    def run() -> Tensor:
        own = theta.detach().requires_grad_()
        value = problem.upper(own, finished(phi, own)).sum() / count
        return torch.autograd.grad(value, own)[0]

    how = f"custom_root, {solver}" + (", all tasks one system" if count > 1 else "")
    yield Method(package="torchopt", how=how, run=run)


def _by_scipy(problem: Softmax, theta: Tensor, start: Tensor) -> Any:
    """Minimiser by SciPy, whose tolerance is on the greatest entry of the gradient."""

    def value_and_slope(flat: Any) -> tuple[float, Any]:
        phi = torch.from_numpy(flat).view_as(start)
        slope = problem.gradient(theta, phi)
        return float(problem.lower(theta, phi)), slope.reshape(-1).numpy()

    settings = {"gtol": GOAL / start.numel() ** 0.5, "ftol": 0.0, "maxiter": STEPS, "maxcor": 10}
    found = peer("scipy.optimize").minimize(
        value_and_slope, start.reshape(-1).numpy(), jac=True, method="L-BFGS-B", options=settings
    )
    return found.x.reshape(start.shape)


def _by_sklearn(problem: Softmax, l2: float) -> Method:
    """``C`` weighs the sum over examples against ``|W|^2 / 2``."""
    model = peer("sklearn.linear_model").LogisticRegression(
        C=1 / (l2 * len(problem.x)), fit_intercept=False, max_iter=STEPS, tol=GOAL
    )
    x, y = problem.x.numpy(), problem.y.numpy()

    def run() -> Any:
        return model.fit(x, y).coef_

    return Method(package="scikit-learn", how="LogisticRegression", run=run, read=torch.from_numpy)


def _relative_to(exact: Tensor) -> Callable[[Tensor], float]:
    return lambda found: float((found - exact).norm() / exact.norm())
