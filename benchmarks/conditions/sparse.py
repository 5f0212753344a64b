"""Lasso and elastic net along a path of 30 strengths, each a task; theta is the strengths.

``|X phi - y|^2/(2 n) + strength (share |phi|_1 + (1 - share) |phi|^2/2)``, scikit-learn's units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.conditions.ways import OURS, Problem, Way, jax, peer
from benchmarks.provenance import SEED
from hypergrad import Implicit, argmin
from hypergrad.conditions import Composite, ElasticNet
from hypergrad.solvers import ProximalGradient

STRENGTHS = 30
RTOL = 1e-8
LIMIT = 100_000  # steps, for all


def paths() -> Iterator[Problem]:
    """Diabetes (442 by 10), and drawn data of more features than examples."""
    data = peer("sklearn.datasets").load_diabetes(return_X_y=True)
    x, y = (torch.from_numpy(part) for part in data)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    yield _problem("lasso, diabetes (442 x 10)", x, y, share=1.0)
    yield _problem("elastic net, diabetes (442 x 10)", x, y, share=0.5)
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(200, 500, generator=draw, dtype=torch.float64)
    noise = torch.randn(200, generator=draw, dtype=torch.float64)
    yield _problem("lasso, drawn (200 x 500)", x, x[:, :20].sum(-1) + noise, share=1.0)


def _problem(name: str, x: Tensor, y: Tensor, *, share: float) -> Problem:
    largest = float((x.mT @ y).abs().max()) / len(y) / share
    strengths = largest * torch.logspace(0, -2, STRENGTHS + 1, dtype=torch.float64)[1:]
    path = _Path(x, y, strengths, share)
    ours = path.ours()
    solution, derivative = path.exact(ours.run()[0])
    return Problem(
        name=f"{name}, {STRENGTHS} strengths",
        solution=solution,
        derivative=derivative,
        ways=[ours, path.sklearn(), path.sparho(), path.jaxopt()],
    )


class _Path:
    """One path and the ways along it."""

    def __init__(self, x: Tensor, y: Tensor, strengths: Tensor, share: float) -> None:
        self.x, self.y, self.strengths, self.share = x, y, strengths, share

    def exact(self, near: Tensor) -> tuple[Tensor, Tensor]:
        """By dense solves on the support, whose signs and subgradients are verified."""
        n = len(self.y)
        solution, derivative = torch.zeros_like(near), torch.zeros_like(self.strengths)
        for index, strength in enumerate(self.strengths):
            on = near[index] != 0
            sign, x = near[index][on].sign(), self.x[:, on]
            bent = x.mT @ x / n + strength * (1 - self.share) * torch.eye(len(sign)).double()
            phi = torch.linalg.solve(bent, x.mT @ self.y / n - strength * self.share * sign)
            assert torch.equal(phi.sign(), sign)
            slope = self.x.mT @ (x @ phi - self.y) / n
            assert bool((slope[~on].abs() < strength * self.share).all())
            turn = self.share * sign + (1 - self.share) * phi  # d/d strength of the equations
            solution[index, on] = phi
            derivative[index] = -torch.linalg.solve(bent, turn) @ phi
        return solution, derivative

    def ours(self) -> Way:
        """All strengths as tasks of one level."""
        n = len(self.y)

        def squares(theta: Tensor, phi: Tensor) -> Tensor:
            return (phi @ self.x.mT - self.y).square().sum(-1) / (2 * n)

        penalty = ElasticNet(
            lambda theta: theta[:, None] * self.share,
            lambda theta: theta[:, None] * (1 - self.share),
        )
        lower: Any = Composite(squares, penalty)
        start = self.x.new_zeros(STRENGTHS, self.x.shape[1])

        def run() -> tuple[Tensor, Tensor]:
            theta = self.strengths.clone().requires_grad_()
            by = ProximalGradient(rtol=RTOL, max_steps=LIMIT)
            phi = argmin(lower, theta, start, by=by, adjoint=Implicit())
            return phi.detach(), torch.autograd.grad(phi.square().sum() / 2, theta)[0]

        return Way(package=OURS, how="Composite(g, ElasticNet)", run=run)

    def sklearn(self) -> Way:
        """Path by scikit-learn's coordinate descent, warm-started; there is no derivative."""
        path = peer("sklearn.linear_model").enet_path
        x, y, strengths = (part.numpy() for part in (self.x, self.y, self.strengths))

        def run() -> tuple[Any, None]:
            found = path(x, y, l1_ratio=self.share, alphas=strengths, tol=1e-10, max_iter=LIMIT)
            return found[1].T, None

        return Way(package="scikit-learn", how="enet_path", run=run)

    def sparho(self) -> Way:
        """Hypergradient by sparho at scikit-learn's solution, one strength after the other."""
        sparho, numpy = peer("sparho"), peer("numpy")
        x, y = self.x.numpy(), self.y.numpy()
        lasso = self.share == 1
        penalty = sparho.L1() if lasso else sparho.ElasticNet(rho=self.share)
        problem = sparho.Problem(sparho.SquaredLoss(), penalty, x, y)
        kind = sparho.adapters.SklearnLasso if lasso else sparho.adapters.SklearnElasticNet
        solver = kind(tol=1e-10, max_iter=LIMIT)

        def run() -> tuple[Any, Any]:
            solved = [solver(problem, float(strength)) for strength in self.strengths]
            pairs = zip(self.strengths, solved, strict=True)
            slopes = [
                sparho.implicit_forward(problem, float(strength), one, one.coef, tol=RTOL)
                for strength, one in pairs
            ]
            return numpy.stack([one.coef for one in solved]), numpy.array(slopes)

        return Way(package="sparho", how="implicit_forward", run=run)

    def jaxopt(self) -> Way:
        """The proximal fixed point, differentiated implicitly; strengths by vmap."""
        module, jaxopt = jax(), peer("jaxopt")
        x, y, strengths = (
            module.numpy.array(part.numpy()) for part in (self.x, self.y, self.strengths)
        )
        solver = jaxopt.ProximalGradient(
            fun=lambda phi: ((x @ phi - y) ** 2).sum() / (2 * len(y)),
            prox=jaxopt.prox.prox_elastic_net,
            maxiter=LIMIT,
            tol=RTOL,
        )

        def one(strength: Any) -> Any:
            # its penalty is l1 (|phi| + ratio |phi|^2/2)
            given = (strength * self.share, (1 - self.share) / self.share)
            phi = solver.run(module.numpy.zeros(x.shape[1]), hyperparams_prox=given).params
            return (phi**2).sum() / 2, phi

        each = module.jit(module.vmap(module.grad(one, has_aux=True)))

        def run() -> tuple[Any, Any]:
            derivative, phi = module.block_until_ready(each(strengths))
            return phi, derivative

        return Way(package="jaxopt", how="ProximalGradient", run=run)
