"""Quadratic programmes of 20 unknowns, 256 at a time: in a box, on a simplex, in a polyhedron.

``min x'Qx/2 - p'x`` with ``Gx <= h`` and ``Ax = b``; theta is p, one for each task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.conditions.ways import OURS, Problem, Way, jax, peer
from benchmarks.provenance import SEED
from hypergrad import Cholesky, Implicit, argmin
from hypergrad.conditions import Box, Constrained, NonNegative, Simplex
from hypergrad.solvers import ProximalGradient

SIZE, TASKS, ROWS = 20, 256, 10
RTOL = 1e-10  # of this library's lower solver: that of SCS below
PEERS_RTOL = 1e-8  # of jaxopt's, which at 1e-10 took 74 and 452 times as long as ours
# the default asks for 1e-6 of each task by conjugate gradients, less than others find here
DENSE = Implicit(Cholesky())


@dataclass(frozen=True, kw_only=True)
class Data:
    """The numbers of one programme, ``(n, n)``, ``(T, n)``, ``(m, n)``, ``(m,)``, ..."""

    Q: Tensor
    p: Tensor
    G: Tensor
    h: Tensor
    A: Tensor
    b: Tensor


def programs() -> Iterator[Problem]:
    """The three of them."""
    draw = torch.Generator().manual_seed(SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    factor = normal(SIZE, SIZE)
    Q, p = factor @ factor.mT / SIZE + 0.1 * torch.eye(SIZE).double(), normal(TASKS, SIZE)
    one, zero = torch.eye(SIZE).double(), torch.zeros(SIZE).double()
    none, nothing = p.new_zeros(0, SIZE), p.new_zeros(0)
    box = Data(Q=Q, p=p, G=torch.cat([-one, one]), h=torch.cat([zero, zero + 1]), A=none, b=nothing)
    yield _problem("box", box, _in_set(box, Box(0.0, 1.0), zero.expand(TASKS, SIZE)))
    simplex = Data(Q=Q, p=p, G=-one, h=zero, A=p.new_ones(1, SIZE), b=p.new_ones(1))
    yield _problem("simplex", simplex, _in_set(simplex, Simplex(), p.new_full(p.shape, 1 / SIZE)))
    rows = normal(ROWS, SIZE)
    general = Data(Q=Q, p=p, G=rows, h=normal(ROWS).abs(), A=none, b=nothing)
    yield _problem("polyhedron", general, _by_its_dual(general))


def _problem(name: str, data: Data, ours: Way) -> Problem:
    solution, derivative = exact(data, ours.run()[0])
    ways = [ours, *_cvxpylayers(name, data), _qpth(data)]
    if name != "polyhedron":
        ways.append(_jaxopt(name, data))
    return Problem(
        name=f"{name}, d = {SIZE}, {TASKS} tasks",
        solution=solution,
        derivative=derivative,
        ways=ways,
    )


def exact(data: Data, near: Tensor) -> tuple[Tensor, Tensor]:
    """The solution and the derivative of ``|x|^2/2``, from any point that is near enough.

    Which inequalities are active is read from that point. The equations of Karush, Kuhn and Tucker
    on them are solved, and the signs of multipliers and slacks prove that it is the solution, and
    that the active set is firm.
    """
    solution, derivative = torch.empty_like(data.p), torch.empty_like(data.p)
    size = data.p.shape[-1]
    for task in range(len(data.p)):
        active = data.h - data.G @ near[task] < 1e-6
        rows = torch.cat([data.G[active], data.A])
        level = torch.cat([data.h[active], data.b])
        corner = data.p.new_zeros(len(rows), len(rows))
        matrix = torch.cat(
            [torch.cat([data.Q, rows.mT], dim=1), torch.cat([rows, corner], dim=1)], dim=0
        )
        found = torch.linalg.solve(matrix, torch.cat([data.p[task], level]))
        x, multipliers = found[:size], found[size : size + int(active.sum())]
        slack = (data.h - data.G @ x)[~active]
        assert bool((multipliers > 0).all())
        assert bool((slack > 0).all())
        solution[task] = x
        # dx/dp is the upper left block of the inverse, which is symmetric
        pulled = torch.linalg.solve(matrix, torch.cat([x, torch.zeros_like(level)]))
        derivative[task] = pulled[:size]
    return solution, derivative


def _pulled(x: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    return x.detach(), torch.autograd.grad(x.square().sum() / 2, p)[0]


def _in_set(data: Data, within: Any, start: Tensor) -> Way:
    def g(p: Tensor, x: Tensor) -> Tensor:
        return (x * (x @ data.Q)).sum(-1) / 2 - (p * x).sum(-1)

    def run() -> tuple[Tensor, Tensor]:
        p = data.p.clone().requires_grad_()
        lower: Any = Constrained(g, within)
        by = ProximalGradient(rtol=RTOL)
        return _pulled(argmin(lower, p, start, by=by, adjoint=DENSE), p)

    return Way(package=OURS, how=f"Constrained(g, {type(within).__name__}), Cholesky", run=run)


def _by_its_dual(data: Data) -> Way:
    inverse = torch.linalg.inv(data.Q)

    def dual(p: Tensor, multipliers: Tensor) -> Tensor:
        push = p - multipliers @ data.G
        bent: Tensor = (push * (push @ inverse)).sum(-1) / 2
        return bent + multipliers @ data.h

    def run() -> tuple[Tensor, Tensor]:
        p = data.p.clone().requires_grad_()
        lower: Any = Constrained(dual, NonNegative())
        start, by = p.new_zeros(TASKS, ROWS), ProximalGradient(rtol=RTOL)
        multipliers = argmin(lower, p, start, by=by, adjoint=DENSE)
        return _pulled((p - multipliers @ data.G) @ inverse, p)

    return Way(package=OURS, how="Constrained(dual, NonNegative), Cholesky", run=run)


def _cvxpylayers(name: str, data: Data) -> Iterator[Way]:
    cvxpy, layers = peer("cvxpy"), peer("cvxpylayers.torch")
    x, p = cvxpy.Variable(SIZE), cvxpy.Parameter(SIZE)
    within = {
        "box": [x >= 0, x <= 1],
        "simplex": [x >= 0, cvxpy.sum(x) == 1],
        "polyhedron": [data.G.numpy() @ x <= data.h.numpy()],
    }
    factor = torch.linalg.cholesky(data.Q).mT.numpy()
    goal = cvxpy.Minimize(cvxpy.sum_squares(factor @ x) / 2 - p @ x)
    layer = layers.CvxpyLayer(cvxpy.Problem(goal, within[name]), parameters=[p], variables=[x])
    for how, options in (
        ("CvxpyLayer", {}),
        ("CvxpyLayer, SCS to 1e-10, dense", {"eps": 1e-10, "mode": "dense"}),
        ("CvxpyLayer, Clarabel, dense", {"solve_method": "Clarabel", "mode": "dense"}),
    ):
        given = {"n_jobs_forward": 1, "n_jobs_backward": 1, **options}

        def run(given: dict[str, Any] = given) -> tuple[Tensor, Tensor]:
            point = data.p.clone().requires_grad_()
            return _pulled(layer(point, solver_args=given)[0], point)

        yield Way(package="cvxpylayers", how=how, run=run)


def _qpth(data: Data) -> Way:
    solve = peer("qpth.qp").QPFunction(verbose=-1)
    A, b = (data.A, data.b) if len(data.A) else (torch.Tensor().double(), torch.Tensor().double())

    def run() -> tuple[Tensor, Tensor]:
        p = data.p.clone().requires_grad_()
        return _pulled(solve(data.Q, -p, data.G, data.h, A, b), p)

    return Way(package="qpth", how="QPFunction", run=run)


def _jaxopt(name: str, data: Data) -> Way:
    module, jaxopt = jax(), peer("jaxopt")
    Q, p = module.numpy.array(data.Q.numpy()), module.numpy.array(data.p.numpy())
    projections = {
        "box": lambda x, _: jaxopt.projection.projection_box(x, (0.0, 1.0)),
        "simplex": lambda x, _: jaxopt.projection.projection_simplex(x),
    }
    solver = jaxopt.ProjectedGradient(
        fun=lambda x, p: x @ Q @ x / 2 - p @ x,
        projection=projections[name],
        maxiter=10_000,
        tol=PEERS_RTOL,
    )

    def one(p: Any) -> Any:
        x = solver.run(module.numpy.full(SIZE, 1 / SIZE), p=p).params
        return (x**2).sum() / 2, x

    each = module.jit(module.vmap(module.grad(one, has_aux=True)))

    def run() -> tuple[Any, Any]:
        derivative, x = module.block_until_ready(each(p))
        return x, derivative

    return Way(package="jaxopt", how="ProjectedGradient", run=run)
