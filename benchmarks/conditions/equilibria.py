"""An equilibrium layer, ``z = tanh(W z + u)`` with ``|W| = 0.9``, as a fixed point and as a root.

64 inputs of 64 units, each a task; the derivative is that in W, which all tasks share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.conditions.ways import OURS, Problem, Way, jax, peer
from benchmarks.provenance import SEED
from hypergrad import Implicit, argmin
from hypergrad.conditions import FixedPoint, Root
from hypergrad.solvers import GMRES, LU, Anderson, Iteration, NewtonKrylov

WIDTH, TASKS = 64, 64
RTOL, LIMIT = 1e-10, 200


def equilibria() -> Iterator[Problem]:
    """The same layer stated in both ways."""
    layer = _Layer()
    solution, derivative = layer.exact()
    size = f"{WIDTH} units, {TASKS} tasks"
    yield Problem(
        name=f"fixed point, {size}",
        solution=solution,
        derivative=derivative,
        ways=[*layer.ours(), *layer.torchdeq(), layer.torchopt(), layer.jaxopt()],
    )
    yield Problem(
        name=f"root, {size}",
        solution=solution,
        derivative=derivative,
        ways=[layer.as_root(), layer.optimistix("Newton"), layer.optimistix("Chord")],
    )


def _layer(w: Tensor, u: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(z @ w.mT + u)


class _Layer:
    """The layer's numbers and the ways to its equilibrium."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(SEED)
        w = torch.randn(WIDTH, WIDTH, generator=draw, dtype=torch.float64)
        self.w = 0.9 * w / torch.linalg.matrix_norm(w, 2)
        self.u = torch.randn(TASKS, WIDTH, generator=draw, dtype=torch.float64)

    def exact(self) -> tuple[Tensor, Tensor]:
        """Newton's iteration to rounding, and a dense solve for each task."""
        z, eye = torch.zeros_like(self.u), torch.eye(WIDTH).double()
        for _ in range(50):
            image = _layer(self.w, self.u, z)
            matrix = eye - (1 - image.square())[..., None] * self.w
            z = z - torch.linalg.solve(matrix, z - image)
        matrix = eye - (1 - z.square())[..., None] * self.w
        v = torch.linalg.solve(matrix.mT, z)
        return z, ((1 - z.square()) * v).mT @ z

    def _pulled(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return z.detach(), torch.autograd.grad(z.square().sum() / 2, w)[0]

    def ours(self) -> Iterator[Way]:
        """Anderson with LU for the adjoint; plain iteration with GMRES."""
        point: Any = FixedPoint(lambda theta, z: _layer(theta, self.u, z), tasks=1)
        for how, by, adjoint in (
            ("Anderson, LU", Anderson(rtol=RTOL), Implicit(LU())),
            ("Iteration, GMRES", Iteration(rtol=RTOL), Implicit(GMRES(rtol=RTOL))),
        ):

            def run(by: Any = by, adjoint: Implicit = adjoint) -> tuple[Tensor, Tensor]:
                w, start = self.w.clone().requires_grad_(), torch.zeros_like(self.u)
                return self._pulled(argmin(point, w, start, by=by, adjoint=adjoint), w)

            yield Way(package=OURS, how=f"FixedPoint, {how}", run=run)

    def torchdeq(self) -> Iterator[Way]:
        """Solution by torchdeq's solver both ways, with absolute tolerances and our depth."""
        torchdeq = peer("torchdeq")
        for solver in ("anderson", "broyden"):
            deq = torchdeq.get_deq(
                ift=True,
                f_solver=solver,
                b_solver=solver,
                f_max_iter=LIMIT,
                b_max_iter=LIMIT,
                f_tol=RTOL,
                b_tol=RTOL,
            )

            def run(deq: Any = deq) -> tuple[Tensor, Tensor]:
                w = self.w.clone().requires_grad_()
                found, _ = deq(lambda z: _layer(w, self.u, z), torch.zeros_like(self.u))
                return self._pulled(found[-1], w)

            yield Way(package="torchdeq", how=f"get_deq(ift=True), {solver}", run=run)

    def torchopt(self) -> Way:
        """``custom_root`` around plain iteration, as it has no solver of fixed points."""
        torchopt = peer("torchopt")

        def iterated(z: Tensor, w: Tensor) -> Tensor:
            with torch.no_grad():
                for _ in range(LIMIT):
                    before, z = z, _layer(w, self.u, z)
                    if float((z - before).norm()) <= RTOL * float(z.norm()):
                        break
            return z

        solve = torchopt.linear_solve.solve_normal_cg(rtol=RTOL, atol=0.0)
        solved = torchopt.diff.implicit.custom_root(
            lambda z, w: z - _layer(w, self.u, z), argnums=1, solve=solve
        )(iterated)

        def run() -> tuple[Tensor, Tensor]:
            w = self.w.clone().requires_grad_()
            return self._pulled(solved(torch.zeros_like(self.u), w), w)

        return Way(package="torchopt", how="custom_root, solve_normal_cg, plain iteration", run=run)

    def jaxopt(self) -> Way:
        """Solution by jaxopt's Anderson acceleration, all tasks as one system."""
        module, jaxopt = jax(), peer("jaxopt")
        w, u = (module.numpy.array(part.numpy()) for part in (self.w, self.u))
        solver = jaxopt.AndersonAcceleration(
            fixed_point_fun=lambda z, w: module.numpy.tanh(z @ w.T + u),
            history_size=5,
            maxiter=LIMIT,
            tol=RTOL,
        )

        def loss(w: Any) -> Any:
            z = solver.run(module.numpy.zeros_like(u), w).params
            return (z**2).sum() / 2, z

        whole = module.jit(module.grad(loss, has_aux=True))

        def run() -> tuple[Any, Any]:
            derivative, z = module.block_until_ready(whole(w))
            return z, derivative

        return Way(package="jaxopt", how="AndersonAcceleration", run=run)

    def as_root(self) -> Way:
        """Newton-Krylov, and LU for the adjoint."""
        root: Any = Root(lambda theta, z: z - _layer(theta, self.u, z), tasks=1)

        def run() -> tuple[Tensor, Tensor]:
            w = self.w.clone().requires_grad_()
            by, start = NewtonKrylov(rtol=RTOL), torch.zeros_like(self.u)
            return self._pulled(argmin(root, w, start, by=by, adjoint=Implicit(LU())), w)

        return Way(package=OURS, how="Root, NewtonKrylov, LU", run=run)

    def optimistix(self, name: str) -> Way:
        """``root_find`` of each task, by vmap, with its implicit adjoint."""
        module, optimistix = jax(), peer("optimistix")
        w, u = (module.numpy.array(part.numpy()) for part in (self.w, self.u))
        solver = getattr(optimistix, name)(rtol=RTOL, atol=RTOL)

        def one(w: Any, u: Any) -> Any:
            def residual(z: Any, given: Any) -> Any:
                return z - module.numpy.tanh(given[0] @ z + given[1])

            start = module.numpy.zeros(WIDTH)
            return optimistix.root_find(residual, solver, start, args=(w, u), max_steps=LIMIT).value

        def loss(w: Any) -> Any:
            z = module.vmap(one, in_axes=(None, 0))(w, u)
            return (z**2).sum() / 2, z

        whole = module.jit(module.grad(loss, has_aux=True))

        def run() -> tuple[Any, Any]:
            derivative, z = module.block_until_ready(whole(w))
            return z, derivative

        return Way(package="optimistix", how=f"root_find, {name}", run=run)
