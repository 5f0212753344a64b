"""A small strongly convex problem with everything in it, for tests of the interface.

Not quadratic, so that Hessian and cross block depend on phi; theta shared by the tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypergrad import Newton
from hypergrad.linear.cholesky import Cholesky

P, Q = 4, 5


class Toy:
    """g = 1/2 phi'A phi - phi'B theta + sum logcosh(phi - theta_0); f = |phi|^2 + theta'theta."""

    def __init__(self, batch: tuple[int, ...] = (), seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        root = draw(*batch, Q, Q)
        self.batch = batch
        self.a = root @ root.mT / Q + torch.eye(Q, dtype=torch.float64)
        self.b = draw(*batch, Q, P)
        self.theta = draw(P)
        self.start = torch.zeros(*batch, Q, dtype=torch.float64)

    def lower(self, theta: Tensor, phi: Tensor) -> Tensor:
        curved = (phi * (self.a @ phi[..., None])[..., 0]).sum(-1) / 2
        bent = torch.log(torch.cosh(phi - theta[0])).sum(-1)
        return curved - (phi * (self.b @ theta)).sum(-1) + bent

    def upper(self, theta: Tensor, phi: Tensor) -> Tensor:
        return phi.square().sum(-1) + theta.square().sum()

    def minimiser(self) -> Tensor:
        solver = Newton(rtol=0.0, solver=Cholesky())
        return solver.minimise(self.lower, self.theta, self.start).phi
