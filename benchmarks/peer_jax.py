"""jaxopt's and optimistix's ways to the answers of benchmarks/peers.py, under ``jax.jit``.

The objectives are written a second time, in jax.numpy, and get the same arrays as arguments. What
is compiled is compiled by the first call, which is not timed; each call waits for its answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.peer_cases import Case
from benchmarks.peer_entries import LARGEST_DENSE, RTOL, STEPS, Method, peer

Function = Callable[..., Any]


def at_minimiser(case: Case) -> Iterator[Method]:
    """The hypergradient of one case."""
    if peer("jax") is None:
        return
    dense = case.phi.numel() <= LARGEST_DENSE
    lower, upper = twins(case.family)
    given = moved(case.theta, case.phi.reshape(-1), *case.arrays)  # solve_cholesky's is a vector
    for package, how, gradient in _gradients(lower, upper, dense=dense):
        yield called(package, how, peer("jax").jit(gradient), given)


def for_tasks(family: str, theta: Tensor, phi: Tensor, arrays: tuple[Tensor, ...]) -> Any:
    """The mean over tasks of the same, mapped over the leading dimension of all but theta."""
    jax = peer("jax")
    if jax is None:
        return
    lower, upper = twins(family)
    given = moved(theta, phi, *arrays)
    for package, how, gradient in _gradients(lower, upper, dense=True):
        each = jax.vmap(gradient, in_axes=(None, *(0 for _ in given[1:])))

        def mean(*given: Any, each: Function = each) -> Any:
            return each(*given).mean(0)

        yield called(package, f"vmap of {how}", jax.jit(mean), given)


def at_fixed_point(theta: Tensor, phi: Tensor, weights: Tensor, target: Tensor) -> Any:
    """The hypergradient at ``phi = tanh(W phi + theta)`` of ``|phi - target|^2 / 2``."""
    jax, jaxopt, optimistix = peer("jax"), peer("jaxopt"), peer("optimistix")
    if jax is None:
        return
    jnp = peer("jax.numpy")
    given = moved(theta, phi, weights, target)

    def residual(phi: Any, theta: Any, weights: Any) -> Any:
        return phi - jnp.tanh(weights @ phi + theta)

    if jaxopt is not None:
        for name in ("solve_gmres", "solve_bicgstab", "solve_normal_cg"):
            solve = functools.partial(_tolerant, getattr(jaxopt.linear_solve, name))

            def run(theta: Any, phi: Any, weights: Any, target: Any, solve: Any = solve) -> Any:
                return jaxopt.implicit_diff.root_vjp(
                    lambda phi, theta: residual(phi, theta, weights),
                    phi,
                    (theta,),
                    phi - target,
                    solve=solve,
                )[0]

            yield called("jaxopt", f"root_vjp, {name}", jax.jit(run), given)
    if optimistix is not None:
        lineax = peer("lineax")
        for name in ("GMRES", "BiCGStab", "LU"):
            solver = _lineax(lineax, name)

            def value(theta: Any, phi: Any, weights: Any, target: Any, solver: Any = solver) -> Any:
                root = _finished(phi, lambda phi, args: residual(phi, *args), solver)
                return ((root((theta, weights)) - target) ** 2).sum() / 2

            yield called("optimistix", f"ImplicitAdjoint, {name}", jax.jit(jax.grad(value)), given)


def fitted(arrays: tuple[Tensor, ...], start: Tensor, l2: float, goal: float) -> Any:
    """The lower solve alone: softmax regression from a start, until ``|d g/d phi| <= goal``."""
    jax, jaxopt, optimistix = peer("jax"), peer("jaxopt"), peer("optimistix")
    if jax is None:
        return
    lower, _ = twins("logistic")
    given = moved(torch.full_like(start[0], l2).log(), start, *arrays)
    if jaxopt is not None:
        lbfgs = jaxopt.LBFGS(lambda phi, theta, *data: lower(theta, phi, *data), **_fit(goal))

        def by_jaxopt(theta: Any, phi: Any, *data: Any) -> Any:
            return lbfgs.run(phi, theta, *data).params

        yield called("jaxopt", "LBFGS", jax.jit(by_jaxopt), given)
    if optimistix is not None:
        # stops by the change of phi and of g, which is no norm of the gradient
        quasi = optimistix.LBFGS(rtol=goal, atol=goal)

        def by_optimistix(theta: Any, phi: Any, *data: Any) -> Any:
            return optimistix.minimise(
                lambda phi, theta: lower(theta, phi, *data), quasi, phi, theta, max_steps=STEPS
            ).value

        yield called("optimistix", "LBFGS", jax.jit(by_optimistix), given)


def upper_steps(
    arrays: tuple[Tensor, ...],
    theta: Tensor,
    start: Tensor,
    *,
    steps: int,
    rate: float,
    goal: float,
) -> Any:
    """Upper gradient steps, each from the last one's phi; what a step calls is one program."""
    jax, jaxopt = peer("jax"), peer("jaxopt")
    if jax is None or jaxopt is None:
        return
    lower, upper = twins("logistic")
    first, phi0, *data = moved(theta, start, *arrays)
    lbfgs = jaxopt.LBFGS(
        lambda phi, theta, *data: lower(theta, phi, *data),
        implicit_diff=True,
        implicit_diff_solve=functools.partial(_tolerant, jaxopt.linear_solve.solve_cg),
        **_fit(goal),
    )

    def value(theta: Any, phi: Any, *data: Any) -> Any:
        found = lbfgs.run(phi, theta, *data).params
        return upper(theta, found, *data), found

    step = jax.jit(jax.grad(value, has_aux=True))

    def run() -> Any:
        theta, phi = first, phi0
        for _ in range(steps):
            gradient, phi = step(theta, phi, *data)
            theta = theta - rate * gradient
        return theta.block_until_ready()

    yield Method(package="jaxopt", how="LBFGS, solve_cg", run=run, read=back)


def twins(family: str) -> tuple[Function, Function]:
    """The objectives of a family in jax.numpy: of theta, phi and the case's arrays."""
    jnp, jax = peer("jax.numpy"), peer("jax")

    def cross_entropy(phi: Any, x: Any, y: Any) -> Any:
        scores = x @ phi.reshape(-1, x.shape[1]).T
        own = jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(scores, axis=1) - own).mean()

    families: dict[str, tuple[Function, Function]] = {
        "quadratic": (
            lambda theta, phi, matrix, target: phi @ (matrix @ phi) / 2 - phi @ theta,
            lambda theta, phi, matrix, target: ((phi - target) ** 2).sum() / 2,
        ),
        "scaled quadratic": (
            lambda theta, phi, matrix, scale, target: (
                phi @ (matrix @ phi) / 2 - phi @ (scale * theta)
            ),
            lambda theta, phi, matrix, scale, target: ((phi - target) ** 2).sum() / 2,
        ),
        "logistic": (
            lambda theta, phi, x, y, x_held, y_held: (
                cross_entropy(phi, x, y)
                + (jnp.exp(theta) * phi.reshape(-1, len(theta)) ** 2).sum() / 2
            ),
            lambda theta, phi, x, y, x_held, y_held: cross_entropy(phi, x_held, y_held),
        ),
    }
    return families[family]


def _gradients(
    lower: Function, upper: Function, *, dense: bool
) -> Iterator[tuple[str, str, Function]]:
    """Package, settings and hypergradient of one task, a function of theta, phi and arrays."""
    jax, jaxopt, optimistix = peer("jax"), peer("jaxopt"), peer("optimistix")
    if jaxopt is not None:
        for name in ("solve_cg", *(["solve_cholesky"] if dense else [])):
            solve = functools.partial(_tolerant, getattr(jaxopt.linear_solve, name))

            def by_vjp(theta: Any, phi: Any, *arrays: Any, solve: Any = solve) -> Any:
                own, cotangent = jax.grad(upper, (0, 1))(theta, phi, *arrays)

                def slope(phi: Any, theta: Any) -> Any:
                    return jax.grad(lower, 1)(theta, phi, *arrays)

                through = jaxopt.implicit_diff.root_vjp(
                    slope, phi, (theta,), cotangent, solve=solve
                )
                return own + through[0]

            yield "jaxopt", f"root_vjp, {name}", by_vjp
    if optimistix is not None:
        lineax = peer("lineax")
        for name in ("CG", *(["Cholesky"] if dense else [])):
            solver = _lineax(lineax, name)

            def value(theta: Any, phi: Any, *arrays: Any, solver: Any = solver) -> Any:
                root = _finished(
                    phi,
                    lambda phi, args: jax.grad(lower, 1)(args[0], phi, *args[1]),
                    solver,
                    lineax.positive_semidefinite_tag,
                )
                return upper(theta, root((theta, arrays)), *arrays)

            yield "optimistix", f"ImplicitAdjoint, {name}", jax.grad(value)


def _tolerant(solve: Function, product: Function, rhs: Any, **more: Any) -> Any:
    """A linear solver of jaxopt at our tolerance; a direct one takes none."""
    if solve.__name__ == "solve_cholesky":
        return solve(product, rhs)
    return solve(product, rhs, tol=RTOL, maxiter=STEPS, **more)


def _lineax(lineax: Any, name: str) -> Any:
    kind = getattr(lineax, name)
    return kind() if name in ("Cholesky", "LU") else kind(rtol=RTOL, atol=0.0, max_steps=STEPS)


def _finished(phi: Any, residual: Function, solver: Any, *tags: object) -> Function:
    """The root as a function of what the residual is given: optimistix's, done before it begins."""
    optimistix, jnp = peer("optimistix"), peer("jax.numpy")

    class Finished(optimistix.AbstractRootFinder):  # type: ignore[misc, name-defined]
        rtol: float = 0.0
        atol: float = 0.0
        norm: Any = optimistix.max_norm

        def init(self, fn: Any, y: Any, *rest: Any) -> Any:
            return None

        def step(self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any) -> Any:
            return y, state, fn(y, args)[1]

        def terminate(self, *given: Any) -> Any:
            return jnp.array(True), optimistix.RESULTS.successful

        def postprocess(self, fn: Any, y: Any, aux: Any, *rest: Any) -> Any:
            return y, aux, {}

    adjoint = optimistix.ImplicitAdjoint(linear_solver=solver)

    def root(args: Any) -> Any:
        return optimistix.root_find(
            residual, Finished(), phi, args, adjoint=adjoint, tags=frozenset(tags)
        ).value

    return root


def _fit(goal: float) -> dict[str, Any]:
    return {"tol": goal, "maxiter": STEPS, "history_size": 10, "jit": True}


def called(package: str, how: str, program: Function, given: list[Any]) -> Method:
    """A compiled program with its arguments, as a method."""
    return Method(
        package=package, how=how, run=lambda: program(*given).block_until_ready(), read=back
    )


def moved(*tensors: Tensor) -> list[Any]:
    """Tensors as jax's arrays, in the precision they have."""
    peer("jax").config.update("jax_enable_x64", True)
    return [peer("jax.numpy").asarray(tensor.numpy()) for tensor in tensors]


def back(array: Any) -> Tensor:
    """An array of jax as a tensor."""
    return torch.from_numpy(peer("numpy").array(array))
